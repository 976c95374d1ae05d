"""Taskiq with taskiq-redis: RedisStreamBroker, orjson, 100 tasks at once, no result backend."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvloop
from probe import URL, ran
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

BLOCKING = False
logging.getLogger("taskiq").setLevel(logging.ERROR)
broker = RedisStreamBroker(URL, queue_name="peers-taskiq", consumer_id="0", xread_count=200)
broker = broker.with_serializer(ORJSONSerializer())


@broker.task(task_name="handle")
async def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    await broker.startup()


async def disconnect() -> None:
    await broker.shutdown()


async def single(job: dict[str, Any]) -> None:
    await handle.kiq(job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    for start in range(0, len(jobs), 50):  # each of them holds a connection
        await asyncio.gather(*[handle.kiq(job) for job in jobs[start : start + 50]])


async def _work() -> None:
    await run_receiver_task(broker, run_startup=True, validate_params=False, max_async_tasks=100)


def work() -> None:
    uvloop.run(_work())
