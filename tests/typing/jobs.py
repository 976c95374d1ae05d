"""The user's view of jobs: this file is read by mypy and pyright, never run.

Lines that must be type errors carry an ignore; ``warn_unused_ignores`` makes a line that is no error fail the check.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from penstock import open_broker
from penstock.job import DISCARD, FunctionJob, Job, job
from penstock.sidekiq import Client


class HardJob(Job, queue="critical", retry=5):
    async def perform(self, a: int, b: str = "x") -> None:
        self.logger.info("job %s, stop soon: %s", self.jid, self.interrupted())


class ThreadJob(Job):
    sidekiq_options = {"queue": "low"}  # noqa: RUF012 Sidekiq's own way to say it

    def perform(self, numbers: list[int]) -> int:
        return sum(numbers)


@job(queue="images")
async def resize(image: str, width: int) -> bytes:
    return image.encode() * width


@HardJob.retry_in
def delay(count: int, error: BaseException, payload: dict[str, Any]) -> int | str:
    return DISCARD if count > 3 else 10


async def class_jobs() -> None:
    assert_type(await HardJob.perform_async(1, "b"), str | None)
    await HardJob.perform_async(1)
    await HardJob.perform_async(a=1, b="b")
    await HardJob.perform_async("1")  # type: ignore[arg-type]
    await HardJob.perform_async()  # type: ignore[call-arg]
    await HardJob.perform_async(1, "b", 3)  # type: ignore[call-arg]
    await HardJob.perform_async(c=1)  # type: ignore[call-arg]
    await HardJob.perform_in(60, 1, "b")
    await HardJob.perform_in(timedelta(minutes=1), 1)
    await HardJob.perform_at(datetime.now(UTC), 1)
    await HardJob.perform_in("soon", 1)  # type: ignore[arg-type]
    await HardJob.perform_in(60, "1")  # type: ignore[arg-type]
    await HardJob.perform_at(60)  # type: ignore[call-arg]
    assert_type(await HardJob.perform_bulk([(1, "b"), [2, "c"]], batch_size=10), list[str | None])
    assert_type(await HardJob.perform_inline(1), bool | None)
    await HardJob.perform_inline("1")  # type: ignore[arg-type]
    await ThreadJob.perform_async([1])
    await ThreadJob.perform_async(["1"])  # type: ignore[list-item]


async def options_of_the_moment() -> None:
    low = HardJob.set(queue="low", tags=["a"])
    await low.perform_async(1)
    await low.set(wait=60).perform_async(1, "b")
    await low.perform_async("1")  # type: ignore[arg-type]
    await low.perform_in(1)  # type: ignore[call-arg]
    await low.perform_inline(1, 2)  # type: ignore[arg-type]


def without_a_loop() -> None:
    assert_type(HardJob.sync.perform_async(1), str | None)
    HardJob.sync.perform_async("1")  # type: ignore[arg-type]
    HardJob.sync.perform_in(60, 1)
    HardJob.set(queue="low").sync.perform_async(1)
    HardJob.set(queue="low").sync.perform_async()  # type: ignore[call-arg]
    assert_type(ThreadJob.sync.perform_bulk([([1],)]), list[str | None])


async def function_jobs() -> None:
    assert_type(await resize("a.png", 3), bytes)
    assert_type(await resize.perform_async("a.png", 3), str | None)
    await resize.perform_in(60, "a.png", width=3)
    await resize.perform_async("a.png", "3")  # type: ignore[arg-type]
    await resize.perform_in(60, "a.png")  # type: ignore[call-arg]
    resize.sync.perform_async("a.png", 3)
    await resize.set(queue="low").perform_async("a.png", 3)
    kept: FunctionJob[[str, int], Any] = resize
    await kept.perform_async("a.png", 3)


async def the_client() -> None:
    client = Client(open_broker("memory://")).install()
    assert_type(client, Client)
    assert_type(await client.push({"class": "Ruby::Job", "args": [1]}), str | None)
    assert_type(await client.push_bulk({"class": HardJob, "args": [[1], [2]]}), list[str | None])
    await client.enqueue(HardJob, 1, "b")
    await client.enqueue(HardJob, "1")  # type: ignore[arg-type]
    await client.enqueue_to("low", HardJob, 1)
    await client.enqueue_in(60, HardJob, 1)
    await client.enqueue_to_in("low", 60, HardJob, 1)
    await client.enqueue_to_in("low", 60, HardJob)  # type: ignore[call-arg]
    client.sync.push({"class": HardJob, "args": [1]})
    with Client.via(client):
        await HardJob.perform_async(1)
