"""A real Ruby Sidekiq beside ours: workers of it on a Redis that tests name, and Ruby code that is run there.

``make servers`` installs Debian's ``ruby-sidekiq`` (6.4 on Debian 12, which reads times only as float seconds). The
jobs are in ``sidekiq_jobs.rb``; each execution leaves the lines of ``tests/end_to_end/jobs.py`` in the same record.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from .redis_server import ServerUnavailableError

JOBS = Path(__file__).with_name("sidekiq_jobs.rb")
READY, READY_WITHIN, STOPPED_WITHIN = "ready\n", 60.0, 40.0
SNIPPET = """
require "json"
require "sidekiq/api"
require ENV.fetch("JOBS")
puts JSON.generate([begin
%s
end])
"""


def find_ruby() -> tuple[str, str]:
    """The executables ``ruby`` and ``sidekiq``; raises ServerUnavailableError."""
    ruby, sidekiq = shutil.which("ruby"), shutil.which("sidekiq")
    if ruby is None or sidekiq is None:
        raise ServerUnavailableError("ruby-sidekiq is not installed (`make servers` does it, as root) and not on PATH")
    return ruby, sidekiq


class RubySidekiq:
    """Ruby on one Redis: ``run`` for what clients and the API do, ``start`` for workers."""

    def __init__(self, url: str, directory: Path) -> None:
        self._ruby, self._sidekiq = find_ruby()
        self.url, self._directory = url, directory
        self.record = directory / "record"
        self.record.touch()
        self.workers: list[RubyWorker] = []

    def run(self, code: str) -> Any:
        """What Ruby code evaluates to, by way of JSON."""
        done = subprocess.run(
            [self._ruby, "-e", SNIPPET % code],
            env=self._environment(),
            capture_output=True,
            timeout=READY_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        (result,) = json.loads(done.stdout.splitlines()[-1])
        return result

    def start(self, *queues: str, concurrency: int = 2, poll: float = 1.0, **environment: str) -> RubyWorker:
        """A worker; returns when it works. ``poll``: average seconds between two looks for what is due."""
        asked = [part for queue in queues or ("default",) for part in ("-q", queue)]
        log = self._directory / f"ruby-{len(self.workers)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self._sidekiq, "-r", str(JOBS), "-e", "test", "-c", str(concurrency), *asked],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment() | {"POLL": str(poll)} | environment,
                start_new_session=True,  # Ctrl-C in the terminal stops the tests first, and they stop the worker
            )
        worker = RubyWorker(process, log)
        self.workers.append(worker)
        return worker.ready()

    @property
    def ended(self) -> dict[int, str]:
        """The executions that were recorded to the end: number and jid."""
        lines = [line.split() for line in self.record.read_text().splitlines()]
        return {int(number): jid for number, event, *_, jid in lines if event == "end"}

    def close(self) -> None:
        """End whatever still runs."""
        for worker in self.workers:
            worker.kill()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "REDIS_URL": self.url, "RECORD": str(self.record), "JOBS": str(JOBS)}


class RubyWorker:
    """One ``sidekiq`` process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ready(self) -> RubyWorker:
        """Wait until it takes jobs."""
        deadline = time.monotonic() + READY_WITHIN
        while READY not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the Ruby worker did not start:\n{self.log[-2000:]}")
            time.sleep(0.02)
        return self

    def quiet(self) -> None:
        """Have it fetch no more."""
        self._process.send_signal(signal.SIGTSTP)

    def stop(self) -> None:
        """An orderly end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """``kill -9``; does nothing if it is gone already."""
        self._process.kill()
        self._process.wait()
