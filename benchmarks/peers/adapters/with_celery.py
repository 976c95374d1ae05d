"""Celery over Redis: a worker of one process (pool ``solo``), no results, no events, a large prefetch."""

from __future__ import annotations

from typing import Any

from celery import Celery
from probe import URL, ran

BLOCKING = True

app = Celery("peers", broker=URL)
app.conf.update(
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=100,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
)


@app.task(name="peers.handle")
def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    app.connection_for_write().ensure_connection()


async def disconnect() -> None:
    app.close()


async def single(job: dict[str, Any]) -> None:
    handle.delay(job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    with app.producer_or_acquire() as producer:
        for job in jobs:
            handle.apply_async((job,), producer=producer)


def work() -> None:
    pool = ("--pool=solo", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["worker", *pool, "--loglevel=ERROR"])
