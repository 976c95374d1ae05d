"""arq: 100 jobs at once, results not kept, the queue polled every 10 ms instead of every half second."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, func
from probe import URL, ran

BLOCKING = False
SETTINGS = RedisSettings.from_dsn(URL)
pools: list[ArqRedis] = []


async def handle(_context: dict[str, Any], _job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    pools.append(await create_pool(SETTINGS))


async def disconnect() -> None:
    await pools.pop().aclose()


async def single(job: dict[str, Any]) -> None:
    await pools[-1].enqueue_job("handle", job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    pool = pools[-1]
    for start in range(0, len(jobs), 50):  # each of them holds a connection
        await asyncio.gather(*[pool.enqueue_job("handle", job) for job in jobs[start : start + 50]])


async def _work() -> None:
    functions = [func(handle, name="handle", keep_result=0)]
    worker = Worker(
        functions, redis_settings=SETTINGS, max_jobs=100, poll_delay=0.01, keep_result=0, handle_signals=False
    )
    await worker.async_run()


def work() -> None:
    uvloop.run(_work())
