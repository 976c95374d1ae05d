"""How a worker scales over processes and shards: ``python -m benchmarks.processes``.

One Redis, started here; a backlog; then ``penstock worker`` without a supervisor and with ``--processes`` 1, 2, 4, in
turn in every round. The clock runs from the first tenth of the backlog to the last, with all processes at work. Jobs
that do nothing show what the library and the server cost each other; jobs that keep a processor busy for a
millisecond show what more processes are for. Then two processes drain the same backlog spread over 1, 2 and 4 shards,
on the one server. The server needs a processor as well: look at the ratios beside their number.

Processor time for each job is shown too: what other programs do meanwhile hardly disturbs it, and where processes stood
in each other's way it would grow with their number.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gated import STREAM
from penstock import Producer, open_broker
from penstock.cli.bench_work import CHUNK, Job, job
from penstock.sharding import shard_names
from tests.servers.redis_server import OwnServer, find_binary

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """``processes``: 0 is one without a supervisor."""

    name: str
    processes: int
    shards: int


@dataclass(frozen=True)
class Drain:
    """One backlog: jobs per second, and seconds of processor time for each job."""

    rate: float
    cost: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--jobs", type=int, default=300_000, help="jobs that do nothing, of one round")
    parser.add_argument("--busy-jobs", type=int, default=4_000, help="jobs that take a millisecond of processor time")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = OwnServer(find_binary("redis"))
    try:
        url = server.start().url
        processes = [Case("no supervisor", 0, 1), *(Case(f"{n} processes", n, 1) for n in options.processes)]
        shards = [Case(f"2 processes, shards {n}", 2, n) for n in options.shards]
        for name, busy, jobs, cases in (
            ("no-op", 0.0, options.jobs, processes),
            ("1 ms of processor time", 0.001, options.busy_jobs, processes),
            ("no-op, spread over shards", 0.0, options.jobs, shards),
        ):
            print(table(name, measured(server, url, cases, options.rounds, busy, jobs)), flush=True)
    finally:
        server.stop()


def measured(
    server: OwnServer, url: str, cases: Sequence[Case], rounds: int, busy: float, jobs: int
) -> dict[str, list[Drain]]:
    """Each round, by case."""
    rates: dict[str, list[Drain]] = defaultdict(list)
    for _ in range(rounds):
        for case in cases:
            server.flush()
            rates[case.name].append(asyncio.run(drain(url, case, busy, jobs)))
    return rates


async def drain(url: str, case: Case, busy: float, jobs: int) -> Drain:
    """One backlog, from its first tenth to its last."""
    queue: Any = open_broker(url)
    count, names = case.processes, shard_names(STREAM, case.shards)
    producer = Producer(queue, STREAM, Job, shards=case.shards)
    for sent in range(0, jobs, CHUNK):
        await producer.send_many([job(number) for number in range(sent, min(sent + CHUNK, jobs))])
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as gate:
        extra = {"PENSTOCK_BENCH_BROKER": url, "PENSTOCK_BENCH_GATE": gate, "PENSTOCK_BENCH_BUSY": str(busy)}
        extra["PENSTOCK_BENCH_SHARDS"] = str(case.shards)
        command = [sys.executable, "-m", "penstock", "worker", "benchmarks.gated", "--log-level", "warning"]
        if count:
            command += ["--processes", str(count)]
        worker = _start(command, {**os.environ, **extra})
        try:
            async with asyncio.timeout(120):
                while len(list(Path(gate).iterdir())) < (count or 1):  # noqa: ASYNC110, ASYNC240 -- other processes
                    await asyncio.sleep(0.01)
                (Path(gate) / "open").touch()
                pids = [int(each.name) for each in Path(gate).iterdir() if each.name.isdecimal()]  # noqa: ASYNC240
                began, spent = await left(queue, names, jobs * 9 // 10), processor_time(pids)
                ended, spent = await left(queue, names, jobs // 10), processor_time(pids) - spent
        finally:
            worker.terminate()
            code = worker.wait(60)
            await queue.close()
    if code:
        raise RuntimeError(f"the worker ended with {code}")
    done = began[1] - ended[1]
    return Drain(done / (ended[0] - began[0]), spent / done)


def processor_time(pids: list[int]) -> float:
    """Seconds that these processes have had a processor."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])


async def left(queue: Any, names: Sequence[str], most: int) -> tuple[float, int]:
    """When no more than that were left, and how many these were."""
    while (size := sum([(await queue.stats(name)).size for name in names])) > most:  # noqa: ASYNC110 -- others work on it
        await asyncio.sleep(0.01)
    return time.perf_counter(), size


def table(title: str, rates: dict[str, list[Drain]]) -> str:
    """Medians, and ratios to the first case, taken within each round."""
    first = next(iter(rates))
    lines = [f"\n{title}, {os.cpu_count()} processors, Redis on the same machine"]
    lines.append(f"  {'':24}{'jobs/s':>12}{'ratio':>8}   {'rounds':12}{'µs/job':>12}")
    for name, found in rates.items():
        ratios = [mine.rate / base.rate for mine, base in zip(found, rates[first], strict=True)]
        rate, cost = statistics.median(each.rate for each in found), statistics.median(each.cost for each in found)
        spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
        lines.append(f"  {name:24}{rate:>12,.0f}{statistics.median(ratios):>8.2f}   {spread:12}{cost * 1e6:>12,.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
