"""The code in the documentation: found in a Markdown page, made into something that can be run.

A fenced block takes directives from the HTML comments directly above it, one a line (blank lines between are fine):

``<!-- no-run: reason -->``   Python is only compiled, commands are left out; the reason is printed
``<!-- server: redis -->``    ``redis://localhost:6379`` in the block means the tests' server (also ``valkey``, ``kafka``);
    ``postgresql://localhost/jobs`` and ``mysql://localhost/jobs`` with ``postgres`` and ``mysql``;
    ``sqs://localhost:9324?region=eu-west-1&tls=false`` with ``sqs``
``<!-- exit: 3 -->``          the commands of the block end with this code
``<!-- file: jobs.py -->``    the block is not run but saved under this name, for later blocks to import or read
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

PYTHON = frozenset({"python", "py"})
SHELL = frozenset({"bash", "console", "sh", "shell"})
SERVERS = frozenset({"redis", "valkey", "postgres", "mysql", "kafka", "sqs"})

_COMMENT = re.compile(r"^\s*<!--\s*([a-z-]+)\s*(?::\s*(.*?))?\s*-->\s*$")
_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w+-]*)")
_SQS_PLACE = "sqs://localhost:9324?region=eu-west-1&tls=false"
_DEFAULT_PLACE = re.compile(
    r"\b((?:rediss?|valkeys?)://)localhost:6379(?:/\d+)?|\b(kafka://)?localhost:9092\b"
    r"|\b((?:postgres(?:ql)?|mysql|mariadb)://)localhost/jobs"
)


@dataclass(frozen=True)
class Block:
    """One fenced block. ``line`` is the number of its first line of code in the page."""

    page: Path
    line: int
    language: str
    code: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def no_run(self) -> str | None:
        """Why it is not run, if so."""
        return self.directives.get("no-run")

    def mistake(self) -> str | None:
        """What is wrong with the directives, if anything."""
        if self.no_run == "":
            return "no-run needs a reason: <!-- no-run: why -->"
        if self.directives.get("server", "redis") not in SERVERS:
            return f"server is one of {', '.join(sorted(SERVERS))}"
        reaches = _DEFAULT_PLACE.search(self.code) or _SQS_PLACE in self.code
        if self.no_run is None and "server" not in self.directives and reaches:
            return "it would reach for a real server: put <!-- server: redis --> above it"
        return None

    def code_for(self, url: str | None) -> str:
        """The code with the address that readers see replaced by the tests' server."""
        if url is None:
            return self.code
        if url.startswith("sqs:"):
            return self.code.replace(_SQS_PLACE, url)
        place = urlsplit(url)
        return _DEFAULT_PLACE.sub(
            lambda shown: f"{shown[1] or shown[2] or shown[3] or ''}{place.netloc}{place.path}", self.code
        )


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    directives: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := _FENCE.match(line):
            start = number
            while number < len(lines) and lines[number].strip() != fence[2]:
                number += 1
            code = textwrap.dedent("\n".join(lines[start:number])) + "\n"
            number += 1
            yield Block(page, start + 1, fence[3].lower(), code, directives)
            directives = {}
        elif comment := _COMMENT.match(line):
            directives[comment[1]] = comment[2] or ""
        elif line.strip():
            directives = {}


def commands(code: str) -> Iterator[list[str]]:
    """The ``penstock ...`` commands of a shell block, as argument lists without the ``penstock``.

    In a transcript (lines beginning with ``$``) the other lines are output. Commands of other programs are the reader's.
    """
    lines = code.replace("\\\n", " ").splitlines()
    transcript = any(line.startswith("$ ") for line in lines)
    for line in lines:
        if transcript and not line.startswith("$ "):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["penstock"]:
            yield words[1:]
