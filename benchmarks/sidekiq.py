"""Penstock on Sidekiq's schema beside Ruby's own worker, in the same run: ``python -m benchmarks.sidekiq``.

1. Jobs that do nothing: one process of ours with ten slots and one of Ruby's with ten threads, in turn, on the same full
   queue. In both a counter in the job itself says when as many have run as there were; the clock starts with the first.
2. Pushing a thousand jobs at a time with ``push_bulk``, here and there.

Only the ratios say something: rates depend on the machine, and on whoever else is busy on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.core import Target
from penstock import open_broker
from penstock.cli import loop
from penstock.job import Job
from penstock.sidekiq import Client, Config, Runner
from tests.servers.redis_server import OwnServer, ServerUnavailableError, find_binary
from tests.servers.ruby_sidekiq import RubySidekiq

THREADS, CHUNK = 10, 1000
PATIENCE = 300.0  # seconds for one round
QUEUE = "default"

TARGETS = (
    Target("no-op jobs, one process, ratio to Ruby's ten threads", "jobs", least=5.0),
    Target("pushing in bulk, ratio to push_bulk", "push", least=1.0),
)


def main() -> int:
    """Measure, print, and with ``--check`` fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidekiq", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=50_000, help="jobs of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    parser.add_argument("--work", nargs=2, metavar=("URL", "JOBS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        loop.settle_memory()  # as a worker on the command line does
        print(loop.run(work(options.work[0], int(options.work[1])), uvloop=True))
        return 0
    try:
        found = measure(options.jobs, options.rounds)
    except ServerUnavailableError as missing:
        print(f"left out: {missing}", file=sys.stderr)
        return int(options.check)
    print(json.dumps(found) if options.json else table(found))
    missed = any("MISSED" in target.judge(found[target.path]["ratio"]) for target in TARGETS)
    return int(missed and options.check)


def measure(jobs: int, rounds: int) -> dict[str, Any]:
    """Jobs per second, the median of the rounds, and the ratios."""
    server = OwnServer(find_binary("redis"))
    rates: dict[str, dict[str, list[float]]] = {"jobs": {"ours": [], "ruby": []}, "push": {"ours": [], "ruby": []}}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        ruby = RubySidekiq(server.start().url, Path(directory))
        try:
            for _ in range(rounds):
                server.flush()
                rates["push"]["ours"].append(jobs / asyncio.run(push(server.url, jobs)))
                rates["jobs"]["ours"].append(jobs / run_ours(server, jobs))
                server.flush()
                rates["push"]["ruby"].append(jobs / push_from_ruby(ruby, jobs))
                rates["jobs"]["ruby"].append(jobs / run_ruby(ruby, jobs, Path(directory) / "done"))
        finally:
            ruby.close()
            server.stop()
    return {name: judged(found["ours"], found["ruby"]) for name, found in rates.items()}


def judged(ours: list[float], ruby: list[float]) -> dict[str, float]:
    mine, theirs = statistics.median(ours), statistics.median(ruby)
    return {"ours": round(mine), "ruby": round(theirs), "ratio": round(mine / theirs, 2)}


class Noop(Job):
    """A job that does nothing but say when all of its kind have run."""

    count, first, wanted = 0, 0.0, 0
    done = asyncio.Event()

    async def perform(self, *_args: Any) -> None:
        cls = type(self)
        cls.first = cls.first or time.perf_counter()
        cls.count += 1
        if cls.count == cls.wanted:
            cls.done.set()


async def push(url: str, jobs: int) -> float:
    """Seconds for so many jobs from here."""
    client = Client(open_broker(f"sidekiq+{url}"))
    await client.broker.open()
    began = time.perf_counter()
    for start in range(0, jobs, CHUNK):
        args = [["string", n, {"mike": "bob"}] for n in range(start, min(start + CHUNK, jobs))]
        await client.push_bulk({"class": Noop, "args": args})
    seconds = time.perf_counter() - began
    await client.broker.close()
    return seconds


def push_from_ruby(ruby: RubySidekiq, jobs: int) -> float:
    """Seconds for so many jobs from Ruby, its start not counted."""
    seconds: float = ruby.run(f"""
      began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      (0...{jobs}).each_slice({CHUNK}) do |slice|
        Sidekiq::Client.push_bulk("class" => Noop, "args" => slice.map {{ |n| ["string", n, {{"mike" => "bob"}}] }})
      end
      Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
    """)
    return seconds


def run_ours(server: OwnServer, jobs: int) -> float:
    """Seconds from the first to the last execution in a process of ours."""
    command = [sys.executable, "-m", "benchmarks.sidekiq", "--work", server.url, str(jobs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
    processed = int(server.call("GET", "stat:processed"))
    assert processed == jobs, f"{processed} jobs are counted as processed, of {jobs}"
    return float(done.stdout)


async def work(url: str, jobs: int) -> float:
    """Run so many jobs, the log spared as in Ruby's worker; seconds from the first to the last."""
    config = Config()
    config.url, config.concurrency = url, THREADS
    Noop.wanted = jobs
    logging.getLogger().setLevel(logging.WARNING)
    async with Runner(config):
        await Noop.done.wait()
        return time.perf_counter() - Noop.first


def run_ruby(ruby: RubySidekiq, jobs: int, done: Path) -> float:
    """Seconds from the first to the last execution in a Ruby worker."""
    done.unlink(missing_ok=True)
    worker = ruby.start(QUEUE, concurrency=THREADS, COUNT=str(jobs), DONE=str(done))
    deadline = time.monotonic() + PATIENCE
    while not done.exists() or not done.read_text():
        assert time.monotonic() < deadline, worker.log[-2000:]
        time.sleep(0.05)
    worker.stop()
    return float(done.read_text())


def table(found: dict[str, Any]) -> str:
    lines = [f"{'per second':54} {'ours':>9} {'Ruby':>9} {'ratio':>6}"]
    for target in TARGETS:
        row = found[target.path]
        verdict = target.judge(row["ratio"])
        lines.append(f"{target.name:54} {row['ours']:>9,} {row['ruby']:>9,} {row['ratio']:>6} {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
