"""penstock over Redis Streams: ``penstock worker`` with 100 slots, ``send`` and ``send_many``."""

from __future__ import annotations

from typing import Any

from probe import URL, ran

from penstock import Consumer, Producer, open_broker
from penstock.cli import main
from penstock.cli.bench_work import CONCURRENCY, Job

BLOCKING = False
STREAM = "peers-penstock"


async def handle(_job: Job) -> None:
    ran()


broker = open_broker(URL)
producer = Producer(broker, STREAM, Job)
consumer = Consumer(open_broker(URL), STREAM, Job, handle, concurrency=CONCURRENCY)


async def connect() -> None:
    await broker.open()


async def disconnect() -> None:
    await broker.close()


async def single(job: dict[str, Any]) -> None:
    await producer.send(Job(**job))


async def bulk(jobs: list[dict[str, Any]]) -> None:
    await producer.send_many([Job(**job) for job in jobs])


def work() -> None:
    main(["worker", "with_penstock:consumer", "--log-level", "warning"])
