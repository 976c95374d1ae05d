"""SAQ: 20 jobs at once, results not kept."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvloop
from probe import URL, ran
from saq import Queue, Worker

BLOCKING = False
logging.getLogger("saq").setLevel(logging.ERROR)
queue = Queue.from_url(URL, name="peers")


async def handle(_context: Any, *, job: dict[str, Any]) -> None:  # noqa: ARG001 -- SAQ passes jobs by keyword
    ran()


async def connect() -> None:
    await queue.connect()


async def disconnect() -> None:
    await queue.disconnect()


async def single(job: dict[str, Any]) -> None:
    await queue.enqueue("handle", job=job, ttl=-1)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    await asyncio.gather(*[queue.enqueue("handle", job=job, ttl=-1) for job in jobs])


async def _work() -> None:
    await queue.connect()
    await Worker(queue, [("handle", handle)], concurrency=20).start()


def work() -> None:
    uvloop.run(_work())
