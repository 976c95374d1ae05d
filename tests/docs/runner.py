"""Runs the blocks of one page as a reader would: in order, in an empty directory, one namespace, one event loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import subprocess
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

from tests.docs.snippets import PYTHON, SHELL, Block, commands

COMMAND_WITHIN = 60.0


class SnippetError(Exception):
    """A snippet does not do what the page says; the message begins with the place, ``file:line``."""


class PageRunner:
    """State shared by the blocks of a page. ``server_url`` gives the address of ``redis`` or ``valkey``."""

    def __init__(self, directory: Path, server_url: Callable[[str], str], module: types.ModuleType) -> None:
        self._directory = directory
        self._server_url = server_url
        self._namespace = module.__dict__

    def run(self, page_blocks: list[Block]) -> None:
        with asyncio.Runner() as loop:
            for block in page_blocks:
                self._run_block(block, loop)

    def _run_block(self, block: Block, loop: asyncio.Runner) -> None:
        if mistake := block.mistake():
            raise SnippetError(f"{block.where}: {mistake}")
        if block.no_run is not None and block.language in PYTHON | SHELL:
            print(f"{block.where}: not run: {block.no_run}")
            if block.language in PYTHON:
                _compiled(block, block.code)
            return
        server = block.directives.get("server")
        code = block.code_for(self._server_url(server) if server else None)
        if name := block.directives.get("file"):
            target = self._directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(code, encoding="utf-8")
        elif block.language in PYTHON:
            self._run_python(block, code, loop)
        elif block.language in SHELL:
            self._run_commands(block, code)

    def _run_python(self, block: Block, code: str, loop: asyncio.Runner) -> None:
        compiled = _compiled(block, code)
        try:
            if compiled.co_flags & inspect.CO_COROUTINE:
                loop.run(types.FunctionType(compiled, self._namespace)())
            else:
                exec(compiled, self._namespace)
        except (Exception, SystemExit) as error:
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(block.page)
            ]
            place = f"{block.page}:{lines[-1]}" if lines else block.where
            raise SnippetError(f"{place}: {type(error).__name__}: {error}") from error

    def _run_commands(self, block: Block, code: str) -> None:
        expected = int(block.directives.get("exit", "0"))
        for arguments in commands(code):
            shown = " ".join(["penstock", *arguments])
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "penstock", *arguments],
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=COMMAND_WITHIN,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise SnippetError(f"{block.where}: `{shown}` did not end within {COMMAND_WITHIN:g} s") from error
            if done.returncode != expected:
                raise SnippetError(
                    f"{block.where}: `{shown}` ended with {done.returncode}, not {expected}:\n{done.stdout}"
                )


def _compiled(block: Block, code: str) -> types.CodeType:
    padded = "\n" * (block.line - 1) + code  # so that a traceback shows the page's own line numbers
    try:
        return compile(padded, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        raise SnippetError(f"{block.page}:{error.lineno}: {error.msg}") from error
