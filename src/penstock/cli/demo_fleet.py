"""The demo's workers: real ``penstock worker`` processes, started, killed and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Self

from ..errors import PenstockError

PATIENCE = 10.0  # seconds for a worker to stop


class DemoFailed(PenstockError):
    """An act of the demo did not come to its end."""


class Fleet:
    """Starts worker processes on the demo's jobs; their logs go to ``place``. Whatever runs at the end is killed."""

    def __init__(self, url: str, stream: str, place: Path) -> None:
        self._url, self._stream, self._place = url, stream, place
        self._running: dict[int, Process] = {}
        self._logs: dict[int, Path] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @property
    def pids(self) -> list[int]:
        """The workers that should be alive."""
        return list(self._running)

    async def start(self) -> int:
        """Start one more worker; its pid."""
        settings = self._place / "penstock.toml"  # empty: what the user has set for other workers is not for these
        settings.touch()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        env |= {"DEMO_BROKER": self._url, "DEMO_STREAM": self._stream, "DEMO_PLACE": str(self._place)}
        path = self._place / f"worker-{len(self._logs) + 1}.log"
        with path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "penstock", "--config", str(settings)),
                *("worker", "penstock.cli.demo_jobs:consumer", "--factory", "--drain", "8"),
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for the demo, which stops them itself
            )
        self._running[process.pid], self._logs[process.pid] = process, path
        return process.pid

    async def kill(self, pid: int) -> None:
        """End a worker as the kernel would when memory runs out: it learns nothing of it."""
        process = self._running.pop(pid)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def stop(self) -> list[int]:
        """Ask every worker to stop; their exit codes."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                codes = [await process.wait() for process in self._running.values()]
        except TimeoutError:
            raise DemoFailed(f"a worker did not stop within {PATIENCE:g} seconds of SIGTERM") from None
        self._running.clear()
        return codes

    def fallen(self) -> str | None:
        """What became of a worker that should be alive and is not, with the last line of its log."""
        for pid, process in self._running.items():
            if process.returncode is not None:
                lines = self._logs[pid].read_text(errors="replace").splitlines()
                last = lines[-1] if lines else "it said nothing"
                return f"worker {pid} ended by itself with {process.returncode}: {last}"
        return None
