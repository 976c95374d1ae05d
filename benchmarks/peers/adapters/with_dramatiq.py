"""Dramatiq over Redis: one process of two threads (its default is eight), a larger prefetch than its default."""

from __future__ import annotations

import os
import signal
from typing import Any

os.environ.setdefault("dramatiq_queue_prefetch", "200")

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from probe import URL, ran

BLOCKING = True
broker = RedisBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="peers", actor_name="handle", max_retries=3)
def handle(_job: dict[str, Any]) -> None:
    ran()


async def connect() -> None:
    broker.client.ping()


async def disconnect() -> None:
    broker.close()


async def single(job: dict[str, Any]) -> None:
    handle.send(job)


async def bulk(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        handle.send(job)


def work() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    worker = dramatiq.Worker(broker, worker_threads=2)
    worker.start()
    signal.sigwait({signal.SIGTERM})
    worker.stop(timeout=3000)
