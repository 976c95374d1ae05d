"""One peer, one round: jobs are sent singly and in bulk, one worker process drains them, then it waits for single jobs.

1. The server is emptied, the counter set to zero.
2. A producer process sends; its clock covers the calls only.
3. A worker process starts and drains the backlog; the rate is that from the first executed job to the last.
4. The memory of the worker, its children included, is read when all is drained.
5. On the idle worker a producer sends one job at a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.adapters.probe import Reader, Reading, create
from benchmarks.peers.catalog import HERE, Peer
from benchmarks.peers.environments import ROOT, interpreter
from benchmarks.peers.figures import Amount, Sample, percentile

STUCK_AFTER = 20.0  # seconds without one more executed job
PRODUCE_WITHIN = 180.0
STOP_WITHIN = 5.0


class FailedError(Exception):
    """The peer did not do what was asked of it; the message says what, with the end of what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a round may take: seconds of draining, jobs and seconds of the latency measurement."""

    seconds: float
    latencies: int
    latency_seconds: float


def measure(peer: Peer, url: str, amount: Amount, pace: Pace) -> Sample:
    """One round; the server at ``url`` is empty."""
    with tempfile.TemporaryDirectory(prefix="penstock-peers-") as folder:
        counter = Path(folder) / "counter"
        create(counter)
        sides = _Sides(peer, url, counter)
        sent = sides.produce("produce", amount.singles, amount.bulk)
        with sides.worker() as worker:
            drained = _drain(Reader(counter), int(sent["sent"]), worker)
            memory = _resident(worker.pid)
            waits = sides.produce("latency", pace.latencies, pace.latency_seconds)["latencies_ms"]
    return Sample(
        single_per_s=sent["single_per_s"],
        bulk_per_s=sent["bulk_per_s"],
        drain_per_s=drained.per_second,
        p50_ms=percentile(waits, 0.5),
        p99_ms=percentile(waits, 0.99),
        rss_mb=memory / 1e6,
        jobs=drained.count,
    )


class _Sides:
    """The processes of one peer, in its environment."""

    def __init__(self, peer: Peer, url: str, counter: Path) -> None:
        self._command = [str(interpreter(peer)), "run.py", peer.adapter]
        self._environment = {**os.environ, "PEERS_URL": url, "PEERS_COUNTER": str(counter)}
        self._environment.pop("PYTHONPATH", None)
        if not peer.requires:
            self._environment["PYTHONPATH"] = str(ROOT / "src")
        self._log = counter.with_name("log")

    def produce(self, *what: object) -> dict[str, Any]:
        """Run a producer to its end and return what it says."""
        command = [*self._command, *map(str, what)]
        try:
            done = subprocess.run(
                command,
                cwd=HERE / "adapters",
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=PRODUCE_WITHIN,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"{what[0]} took more than {PRODUCE_WITHIN:g} s") from error
        if done.returncode != 0:
            raise FailedError(f"{what[0]} failed: {_end_of(done.stderr)}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, as long as the block lasts; the processes that it starts end with it."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*self._command, "work"],
                cwd=HERE / "adapters",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        except FailedError as error:
            raise FailedError(f"{error}: {_end_of(self._log.read_text(errors='replace'))}") from error
        finally:
            _stop(process)


def _drain(reader: Reader, total: int, worker: subprocess.Popen[bytes]) -> Reading:
    """Wait until so many jobs were executed."""
    seen, patience = -1, time.monotonic() + STUCK_AFTER
    while (now := reader.read()).count < total:
        if now.count != seen:
            seen, patience = now.count, time.monotonic() + STUCK_AFTER
        if worker.poll() is not None:
            raise FailedError(f"the worker ended with {worker.returncode} after {now.count} of {total} jobs")
        if time.monotonic() > patience:
            raise FailedError(f"stuck: {now.count} of {total} jobs were executed")
        time.sleep(0.02)
    return now


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it; what is left of its own session after that is killed."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _resident(pid: int) -> int:
    """Bytes of a process and of its descendants."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(child)) for child in children)


def _end_of(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-2:])[:300] or "it said nothing"
