"""A worker with nothing to do, for ``benchmarks.core``: ``penstock worker benchmarks.noop``."""

from __future__ import annotations

import os

from penstock import Consumer, open_broker
from penstock.cli.bench_work import CONCURRENCY, Job

STREAM = "penstock-soak"


async def handle(_job: Job) -> None:
    """Done."""


if "PENSTOCK_BENCH_BROKER" in os.environ:
    noop = Consumer(open_broker(os.environ["PENSTOCK_BENCH_BROKER"]), STREAM, Job, handle, concurrency=CONCURRENCY)
