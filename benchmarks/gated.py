"""Workers for ``benchmarks.processes``: each says that it is there, and waits until all may begin."""

from __future__ import annotations

import os
import time
from pathlib import Path

from penstock import Consumer, open_broker
from penstock.cli.bench_work import CONCURRENCY, Job

STREAM = "penstock-processes"
GATE, BUSY = os.environ.get("PENSTOCK_BENCH_GATE"), float(os.environ.get("PENSTOCK_BENCH_BUSY", "0"))
SHARDS = int(os.environ.get("PENSTOCK_BENCH_SHARDS", "1"))


async def noop(_job: Job) -> None:
    """Done."""


async def busy(_job: Job) -> None:
    """Keep a processor for so many seconds of its time."""
    until = time.thread_time() + BUSY
    while time.thread_time() < until:
        pass


if GATE is not None:
    gated = Consumer(
        open_broker(os.environ["PENSTOCK_BENCH_BROKER"]),
        STREAM,
        Job,
        busy if BUSY else noop,
        concurrency=CONCURRENCY,
        shards=SHARDS,
    )
    (Path(GATE) / str(os.getpid())).touch()
    while not (Path(GATE) / "open").exists():
        time.sleep(0.005)
