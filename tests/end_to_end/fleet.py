"""A fleet of real worker processes to be killed, frozen, stopped and replaced, and the record of what they did.

Tests wait for lines of the record or states of the broker, never for time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import penstock
from penstock import Producer, Send, open_broker
from penstock.broker import StreamStats
from penstock.inspector import Inspector
from penstock.testing import crash
from tests.end_to_end.jobs import Job, Settings

PROGRAM = Path(__file__).with_name("jobs.py")
PATIENCE = 60.0  # seconds that a test waits for what must come


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the record."""

    number: int
    event: str
    pid: int
    attempt: int
    at: float
    ident: str


class Member:
    """One worker process."""

    def __init__(self, settings: Settings, log: Path, crash_at: str = "") -> None:
        self._log = log
        source = str(Path(penstock.__file__).parents[1])
        root = str(Path(__file__).parents[2])
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), msgspec.json.encode(settings).decode()],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join((source, root)),
                    "PYTHONFAULTHANDLER": "1",
                    **({crash.VARIABLE: crash_at} if crash_at else {}),
                },
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def log(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


class Fleet:
    """Workers on one broker and one stream, and what they wrote down."""

    def __init__(self, url: str, directory: Path, **settings: Any) -> None:
        self._directory = directory
        self._record = directory / "record"
        self._record.touch()
        self.settings = Settings(url=url, record=str(self._record), **settings)
        self.members: list[Member] = []
        self.killed: set[int] = set()
        self._lines: list[Line] = []
        self._read = 0

    # ------------------------------------------------------------------------------------------------------ processes

    def start(self, count: int = 1, *, crash_at: str = "") -> list[Member]:
        """Start more workers; with ``crash_at``, such as die at a named point (``penstock.testing.crash``)."""
        known = len(self.members)
        fresh = [Member(self.settings, self._directory / f"log-{known + n}", crash_at) for n in range(count)]
        self.members += fresh
        return fresh

    async def start_ready(self, count: int = 1) -> list[Member]:
        """Start more workers and wait until they are ready."""
        fresh = self.start(count)
        pids = {member.pid for member in fresh}
        await self.until(lambda: pids <= {line.pid for line in self.lines if line.event == "ready"})
        return fresh

    async def freeze(self, member: Member) -> None:
        """Stop a worker with SIGSTOP, but not while it writes to SQLite: its lock would freeze everybody else."""
        while True:
            member.signal(signal.SIGSTOP)
            await self.until(lambda: Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            if self._writable():
                return
            member.signal(signal.SIGCONT)
            await asyncio.sleep(0.05)

    def _writable(self) -> bool:
        scheme, _, path = self.settings.url.partition(":///")
        if scheme != "sqlite":
            return True
        database = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            database.close()
        return True

    def kill(self, member: Member) -> None:
        self.killed.add(member.pid)
        member.kill()

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.members if member.alive]

    @property
    def ready(self) -> list[Member]:
        """Those that live and have been ready."""
        pids = {line.pid for line in self.lines if line.event == "ready"}
        return [member for member in self.alive if member.pid in pids]

    async def exited(self, member: Member, within: float = PATIENCE) -> int:
        """Wait for the end of a worker; its exit code."""
        await self.until(lambda: not member.alive, within)
        assert member.exit_code is not None
        return member.exit_code

    def close(self) -> None:
        """End whatever still runs."""
        for member in self.alive:
            member.kill()

    # --------------------------------------------------------------------------------------------------------- record

    @property
    def lines(self) -> list[Line]:
        """The whole record, in the order in which it was written."""
        with self._record.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]  # the last line may still be on its way
        self._read += len(data)
        for text in data.decode().splitlines():
            number, event, pid, attempt, at, ident = text.split()
            self._lines.append(Line(int(number), event, int(pid), int(attempt), float(at), ident))
        return self._lines

    def seen(self, event: str, *, number: int | None = None, pid: int | None = None) -> list[Line]:
        """The lines of one kind."""
        return [
            line
            for line in self.lines
            if line.event == event and number in {None, line.number} and pid in {None, line.pid}
        ]

    def executions(self) -> dict[int, list[Line]]:
        """The start lines of each job."""
        found: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.lines:
            if line.event == "start":
                found[line.number].append(line)
        return found

    def unexplained(self) -> dict[int, list[Line]]:
        """Jobs that were run again although no earlier execution was in a worker that was killed."""
        return {
            number: starts
            for number, starts in self.executions().items()
            if any(start.pid not in self.killed for start in starts[:-1])
        }

    # --------------------------------------------------------------------------------------------------------- waiting

    async def until(self, condition: Callable[[], bool], within: float = PATIENCE) -> None:
        """Wait for a state of the fleet."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"waited {within} s in vain; {self.tail()}"
            await asyncio.sleep(0.01)

    async def until_empty(self, within: float = PATIENCE) -> StreamStats:
        """Wait until the stream holds nothing, now or later: seen twice, as what moves meanwhile is in neither number."""
        deadline, looks = time.monotonic() + within, 0
        async with Inspector(open_broker(self.settings.url)) as inspector:
            while True:
                (stats,) = await inspector.stats(self.settings.stream)
                empty = not stats.size and not stats.delayed and not any(group.leased for group in stats.groups)
                looks = looks + 1 if empty else 0
                if looks == 2:
                    return stats
                assert time.monotonic() < deadline, f"still there after {within} s: {stats}; {self.tail()}"
                await asyncio.sleep(0.05)

    def tail(self) -> str:
        """The ends of all logs and of the record, for a failing test."""
        logs = [f"{member.pid} ({member.exit_code}): {member.log[-8:]}" for member in self.members[-6:]]
        return "\n".join([*logs, *map(str, self.lines[-10:])])

    # -------------------------------------------------------------------------------------------------------- messages

    async def send(self, *jobs: Job, type: str = "job", keys: int = 0) -> list[str]:
        """Put jobs in the stream; with so many ``keys`` taken in turn."""
        broker = open_broker(self.settings.url)
        try:
            producer = Producer(broker, self.settings.stream, Job, default_type=type)
            return await producer.send_many([Send(job, key=f"k{job.number % keys}" if keys else None) for job in jobs])
        finally:
            await broker.close()

    async def dead(self) -> Sequence[Any]:
        """The dead letters."""
        async with Inspector(open_broker(self.settings.url)) as inspector:
            return [letter async for letter in inspector.each_dead(self.settings.stream)]
