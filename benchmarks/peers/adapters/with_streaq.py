"""streaQ: 16 tasks at once, its default, results not kept, ``enqueue_many``, uvloop."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from typing import Any

from probe import URL, ran
from streaq import Worker

BLOCKING = False
logging.getLogger("streaq").setLevel(logging.ERROR)
worker: Any = Worker(
    redis_url=URL,
    queue_name="peers",
    serializer=json.dumps,
    deserializer=json.loads,
    anyio_kwargs={"use_uvloop": True},
)
opened: list[AsyncExitStack] = []


@worker.task(ttl=0, silent=True, name="handle")
async def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    stack = AsyncExitStack()
    await stack.enter_async_context(worker)
    opened.append(stack)


async def disconnect() -> None:
    await opened.pop().aclose()


async def single(job: dict[str, Any]) -> None:
    await handle.enqueue(job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    await worker.enqueue_many([handle.enqueue(job) for job in jobs])


def work() -> None:
    worker.run_sync()
