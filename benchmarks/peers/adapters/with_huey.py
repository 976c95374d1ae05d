"""Huey over Redis: blocking pops, no results, no periodic tasks, one thread."""

from __future__ import annotations

import logging
from typing import Any

from huey import RedisHuey
from probe import URL, ran

BLOCKING = True
logging.getLogger("huey").setLevel(logging.ERROR)
huey = RedisHuey("peers", url=URL, results=False, blocking=True)


@huey.task(name="handle")
def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    huey.storage.conn.ping()


async def disconnect() -> None:
    huey.storage.conn.close()


async def single(job: dict[str, Any]) -> None:
    handle(job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        handle(job)


def work() -> None:
    huey.create_consumer(workers=1, worker_type="thread", periodic=False, check_worker_health=False).run()
