"""FastStream over Redis Streams: a consumer group read 200 at a time, publishing through a pipeline in bulk."""

from __future__ import annotations

import logging
from typing import Any

import redis
import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from probe import URL, ran

BLOCKING = False
STREAM = "peers-faststream"
broker = RedisBroker(URL, logger=None, apply_types=False, log_level=logging.ERROR)
clients: list[Any] = []


async def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    clients.append(await broker.connect())


async def disconnect() -> None:
    clients.clear()
    await broker.stop()


async def single(job: dict[str, Any]) -> None:
    await broker.publish(job, stream=STREAM)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    async with clients[-1].pipeline(transaction=False) as pipe:
        for job in jobs:
            await broker.publish(job, stream=STREAM, pipeline=pipe)
        await pipe.execute()


def work() -> None:
    with redis.Redis.from_url(URL) as client:
        client.xgroup_create(STREAM, "peers", id="0", mkstream=True)  # its own would begin after the backlog
    subscription = StreamSub(STREAM, group="peers", consumer="one", last_id=">", max_records=200, polling_interval=2000)
    broker.subscriber(stream=subscription)(handle)
    uvloop.run(FastStream(broker, logger=None).run())
