"""Workers under a supervisor, as an operator has them: ``penstock worker --processes``, signals, HTTP and log lines."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import penstock
from tests.end_to_end.fleet import Fleet

PATIENCE = 60.0

PROGRAM = """
import msgspec
from tests.end_to_end.jobs import Record, Settings, worker_of

settings = msgspec.json.decode({settings!r}, type=Settings)
worker = worker_of(settings, Record(settings.record))
"""


class Supervised:
    """One supervisor whose children work for a fleet's stream, and leave their lines in its record."""

    def __init__(self, fleet: Fleet, directory: Path, *options: str, module: str = "supervised_jobs") -> None:
        self.fleet, self.directory = fleet, directory
        self.write(PROGRAM.format(settings=msgspec.json.encode(fleet.settings).decode()))
        self._log = directory / "supervisor.log"
        self._errors = directory / "supervisor.err"
        roots = os.pathsep.join((str(Path(penstock.__file__).parents[1]), str(Path(__file__).parents[2])))
        with self._log.open("wb") as stdout, self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "worker", module, *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def write(self, program: str) -> None:
        """Deploy: put this into the module that children import."""
        (self.directory / "supervised_jobs.py").write_text(program)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def started(self) -> list[int]:
        """The pids of all children, in the order of their starts."""
        return [int(pid) for pid in re.findall(r"child \d+: process (\d+) started", self.log)]

    @property
    def children(self) -> list[int]:
        """The pids of those that live."""
        return [pid for pid in self.started if alive(pid)]

    @property
    def ready(self) -> list[int]:
        """The pids of the living children whose worker has started."""
        begun = {int(pid) for pid in re.findall(r"\[(\d+)\] penstock: worker started", self.log)}
        return [pid for pid in self.children if pid in begun]

    def count(self, text: str) -> int:
        """How often a text is in the log."""
        return self.log.count(text)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def interrupt_group(self) -> None:
        """What a terminal does on Ctrl-C: SIGINT to the foreground process group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def until(self, condition: Callable[[], Any], within: float = PATIENCE) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"waited {within} s in vain; {self.errors[-2000:]} {self.log[-4000:]}"
            await asyncio.sleep(0.01)

    async def until_ready(self, count: int) -> None:
        told = f"all {count} processes are ready"
        await self.until(lambda: self.count(told))
        assert count <= self.log.partition(told)[0].count("penstock: worker started"), self.log

    async def exited(self, within: float = PATIENCE) -> int:
        await self.until(lambda: self.exit_code is not None, within)
        assert self.exit_code is not None
        return self.exit_code

    @property
    def address(self) -> str:
        """Where it serves metrics and health."""
        found = re.search(r"metrics and health at (\S+)", self.log)
        assert found, self.log
        return found[1]

    async def status(self, path: str) -> int:
        return (await self._get(path))[0]

    async def value(self, series: str) -> float | None:
        """The value of a metric, as it is written with its labels."""
        _, text = await self._get("/metrics")
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    async def until_value(self, series: str, expected: float) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := await self.value(series)) != expected:
            assert time.monotonic() < deadline, f"{series} is {found}, not {expected}; {self.log[-2000:]}"
            await asyncio.sleep(0.05)

    async def _get(self, path: str) -> tuple[int, str]:
        def get() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(self.address + path, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(get)

    def close(self) -> None:
        """End whatever still runs."""
        children = self.children
        if self.exit_code is None:
            self.kill()
        for pid in children:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
