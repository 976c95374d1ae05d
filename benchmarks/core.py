"""The speed and memory targets of the core, measured: ``python -m benchmarks.core`` (``make bench``).

1. How long ``import penstock`` takes, in fresh processes.
2. ``penstock bench`` against each broker, each in a process of its own, on servers that are started here.
3. The memory of real ``penstock worker`` processes, early and late in a long run of jobs.

Only ratios, latencies and memory have targets: rates depend on the machine. Other programs that are busy meanwhile
disturb all of it, and most of all a worker that shares two processors with them and its own server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.noop import STREAM
from penstock import Producer, open_broker
from penstock.cli.bench_work import CHUNK, Job, job
from tests.servers.redis_server import OwnServer, ServerUnavailableError, find_binary

IMPORTS = 9
SOAK = 50_000
BACKLOG = 20_000  # jobs that may wait for the worker while its memory is watched
IMPORT_TIME = "import time, sys; began = time.perf_counter(); import penstock; print(time.perf_counter() - began)"


@dataclass(frozen=True)
class Target:
    """A figure that is promised: ``least`` or ``most``."""

    name: str
    path: str
    least: float | None = None
    most: float | None = None
    only: str = ""

    def judge(self, found: float) -> str:
        met = (self.least is None or found >= self.least) and (self.most is None or found <= self.most)
        wanted = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return f"{wanted:>8}  {'ok' if met else 'MISSED'}"


TARGETS = (
    Target("consume, ratio to the bare loop", "consume.ratio", least=0.8, only="redis"),
    Target("consume, ratio to the bare loop", "consume.ratio", least=0.2, only="sqlite"),
    Target("single sends, ratio to bare XADD", "publish.ratio", least=0.8, only="redis"),
    Target("send_many, ratio to a pipeline", "send_many.ratio", least=2.0, only="redis"),
    Target("send to start, p50 in ms", "latency.p50_ms", most=1.0, only="redis"),
    Target("send to start, p99 in ms", "latency.p99_ms", most=3.0, only="redis"),
    Target("a worker's memory in MB", "worker.late_mb", most=60.0, only="redis"),
    Target("its growth in that run in MB", "worker.growth_mb", most=3.0),
)


def main() -> int:
    """Measure, print, and with ``--check`` fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__.partition("\n")[0])
    parser.add_argument("--brokers", nargs="+", default=["redis", "valkey", "sqlite"], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=50_000, help="jobs of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=SOAK, help="jobs while memory is watched; a million for the proof")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    say: Callable[[str], None] = (lambda _: None) if options.json else (lambda text: print(text, flush=True))

    results: dict[str, Any] = {"import_ms": import_time()}
    say(f"import penstock: {results['import_ms']:.1f} ms (target ≤ 100)")
    missed = results["import_ms"] > 100
    for name in options.brokers:
        try:
            with broker(name) as url:
                results[name] = found = measure(url, options.jobs, options.rounds)
                found["worker"] = watch_memory(url, options.soak)
        except ServerUnavailableError as missing:
            say(f"\n{name}: left out, {missing}")
            continue
        say(table(name, found))
        missed |= any("MISSED" in target.judge(figure(found, target.path)) for target in targets_of(name))
    if options.json:
        print(json.dumps(results))
    return int(missed and options.check)


def import_time() -> float:
    """Milliseconds, the median of several fresh processes."""
    command = [sys.executable, "-c", IMPORT_TIME]
    times = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(IMPORTS)]
    return statistics.median(times) * 1000


@contextmanager
def broker(name: str) -> Iterator[str]:
    """The URL of a fresh broker."""
    with ExitStack() as stack:
        if name == "sqlite":
            yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory(prefix='penstock-bench-'))}/jobs.db"
            return
        server = OwnServer(find_binary(name))
        stack.callback(server.stop)
        yield server.start().url


def measure(url: str, jobs: int, rounds: int) -> dict[str, Any]:
    """What ``penstock bench`` says."""
    command = [sys.executable, "-m", "penstock", "bench", "--broker", url, "--json"]
    done = subprocess.run([*command, f"--jobs={jobs}", f"--rounds={rounds}"], check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def watch_memory(url: str, jobs: int) -> dict[str, float]:
    """Megabytes of a real worker after a tenth of ``jobs`` and after all of them."""
    environment = {**os.environ, "PENSTOCK_BENCH_BROKER": url}
    command = [sys.executable, "-m", "penstock", "worker", "benchmarks.noop", "--log-level", "warning"]
    worker = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])
    try:
        early, late = asyncio.run(_feed(url, worker.pid, jobs))
    finally:
        worker.terminate()
        code = worker.wait(30)
    if code != 0:
        raise RuntimeError(f"the worker ended with {code}")
    return {"early_mb": early, "late_mb": late, "growth_mb": round(late - early, 1), "jobs": jobs}


async def _feed(url: str, pid: int, jobs: int) -> tuple[float, float]:
    queue: Any = open_broker(url)
    producer = Producer(queue, STREAM, Job)
    early = 0.0
    try:
        for sent in range(0, jobs, CHUNK):
            await producer.send_many([job(number) for number in range(sent, sent + CHUNK)])
            while (await queue.stats(STREAM)).size > BACKLOG:  # noqa: ASYNC110 -- another process works on it
                await asyncio.sleep(0.05)
            if not early and sent >= jobs // 10:
                await _drained(queue)
                early = _resident(pid)
        await _drained(queue)
        return early, _resident(pid)
    finally:
        await queue.close()


async def _drained(queue: Any) -> None:
    async with asyncio.timeout(120):
        while (await queue.stats(STREAM)).size:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.05)


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def figure(report: dict[str, Any], path: str) -> float:
    """The figure at ``consume.ratio`` and the like."""
    value: Any = report
    for part in path.split("."):
        value = value[part]
    return float(value)


def targets_of(name: str) -> list[Target]:
    """What is promised for a broker; Valkey is held to the same as Redis."""
    kind = "redis" if name == "valkey" else name
    return [target for target in TARGETS if target.only in {"", kind}]


def table(name: str, report: dict[str, Any]) -> str:
    """Rates beside the bare client's, then what has a target."""
    bare, lines = report["bare"], ["", f"{name}: {report['jobs']:,} jobs a round, {report['python']}, {report['loop']}"]
    rates = (
        ("single sends, awaited", report["publish"]["awaited_per_s"], bare["publish_per_s"], report["publish"]),
        ("single sends, many at once", report["publish"]["gathered_per_s"], None, None),
        ("send_many", report["send_many"]["per_s"], bare["send_many_per_s"], report["send_many"]),
        ("consume", report["consume"]["per_s"], bare["consume_per_s"], report["consume"]),
    )
    lines.append(f"  {'per second':36}{'penstock':>10}{'bare':>10}{'ratio':>8}   rounds")
    for label, ours, theirs, part in rates:
        line = f"  {label:36}{ours:>10,}"
        if part is not None:
            line += f"{theirs:>10,}{part['ratio']:>8.2f}   {part['ratio_min']:.2f} … {part['ratio_max']:.2f}"
        lines.append(line)
    for target in targets_of(name):
        found = figure(report, target.path)
        lines.append(f"  {target.name:36}{found:>10.2f}  {target.judge(found)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
