"""RQ: SimpleWorker (no fork for each job), results not kept, ``enqueue_many``."""

from __future__ import annotations

from typing import Any

from probe import URL, ran
from redis import Redis
from rq import Queue, SimpleWorker

BLOCKING = True
connection = Redis.from_url(URL)
queue = Queue("peers", connection=connection)


def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    connection.ping()


async def disconnect() -> None:
    connection.close()


async def single(job: dict[str, Any]) -> None:
    queue.enqueue("with_rq.handle", job, result_ttl=0, description="handle")


async def bulk(jobs: list[dict[str, Any]]) -> None:
    prepare = Queue.prepare_data
    queue.enqueue_many([prepare("with_rq.handle", (job,), result_ttl=0, description="handle") for job in jobs])


def work() -> None:
    worker = SimpleWorker([queue], connection=connection)
    worker.log_result_lifespan = False
    worker.work(logging_level="ERROR")
