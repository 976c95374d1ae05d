"""One child as its supervisor sees it: started, heard, told, ended.

It is a fresh interpreter with the same command line, never a fork: nothing that is open here is open there but the
standard streams and its end of the line. It leads a session and a process group of its own, so that Ctrl-C reaches the
supervisor alone, and so that what it started itself can be killed with it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .link import VARIABLE, Duty, Failed, Report, packed, received

CLEANING_UP = 10.0  # seconds beyond its drain that a worker may take to stop
LAST_WORDS = 2.0  # seconds for what a child wrote before it ended

_numbers = itertools.count(1)


class Process:
    """A child process. ``heard`` is called after each of its reports."""

    def __init__(self, command: Sequence[str], directory: str, generation: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 our own command line again
                    command,
                    stdin=subprocess.DEVNULL,
                    cwd=directory,
                    env={**_environment(), VARIABLE: str(theirs.fileno())},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        self._line = ours
        self._writer: asyncio.StreamWriter | None = None
        loop = asyncio.get_running_loop()
        self.number = next(_numbers)  # pids come again, this does not
        self.pid = self._process.pid
        self.generation = generation
        self.started_at = time.monotonic()
        self.report: Report | None = None
        self.ready_at: float | None = None
        self.reason = ""  # why it could not start, in its own words
        self.retired = False  # told to end
        self.first_ready: asyncio.Future[bool] = loop.create_future()
        self.gone: asyncio.Future[int] = loop.create_future()

    @property
    def ready(self) -> bool:
        """Whether it lives, and said of itself that it is ready."""
        return not self.gone.done() and self.report is not None and self.report.ready

    @property
    def drain(self) -> float:
        """Seconds after which it should have stopped."""
        return CLEANING_UP + (self.report.drain if self.report else 0.0)

    async def listen(self, heard: Callable[[Process], None]) -> int:
        """Read what it says until it has ended; its exit code, below 0 that of the signal that killed it."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._line)
        reading = asyncio.ensure_future(self._read(reader, heard))
        try:
            code = await asyncio.shield(self.gone)
            await asyncio.wait((reading,), timeout=LAST_WORDS)
        finally:
            reading.cancel()
            self._writer.close()
            if not self.first_ready.done():
                self.first_ready.set_result(False)
        return code

    async def _read(self, reader: asyncio.StreamReader, heard: Callable[[Process], None]) -> None:
        while (message := await received(reader)) is not None:
            if isinstance(message, Failed):
                self.reason = message.reason
            elif isinstance(message, Report):
                self.report = message
                if message.ready and self.ready_at is None:
                    self.ready_at = time.monotonic()
                    self.first_ready.set_result(True)
                heard(self)

    def look(self) -> None:
        """Find out whether it has ended; called whenever some child has."""
        if not self.gone.done() and (code := self._process.poll()) is not None:
            self.gone.set_result(code)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Before its first report any would kill it, so only SIGTERM goes through then."""
        if number == signal.SIGTERM or self.report is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it and what it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def duty(self, *, sample: bool) -> None:
        """Tell it whether to read the gauges that are the broker's."""
        if self._writer is not None:
            self._writer.write(packed(Duty(sample)))


def same_command() -> list[str]:
    """The command line of this process, to be run again: interpreter, its options, and all arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


def same_directory() -> str:
    """The current directory as the shell named it: behind a link to a release, a new child finds the new one."""
    here = Path.cwd()
    named = Path(os.environ.get("PWD", ""))
    with suppress(OSError):
        if named.is_absolute() and named.samefile(here):
            return str(named)
    return str(here)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
