"""What a message or a consumer asks for beyond being run: how long, until when, in which order, many at once; on every broker."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock import Batch, Context, Inspector, Options, RetryPolicy
from tests.end_to_end.stage import Stage

SOON = RetryPolicy(max_attempts=3, backoff=0.02)


async def test_a_timeout_travels_with_its_message_and_its_retries(stage: Stage) -> None:
    attempts = list[int]()

    async def slow(job: dict[str, Any], context: Context) -> None:
        attempts.append(context.attempt)
        await asyncio.sleep(30 if context.attempt < 2 else 0)

    await stage.producer().send({}, timeout=0.05)
    worker = await stage.work(stage.consumer(dict, slow, retry=SOON))
    await stage.until_empty()
    assert attempts == [0, 1, 2]
    assert worker.consumers[0].counters.acked == 1


async def test_what_has_expired_is_dead_and_may_be_run_all_the_same(stage: Stage) -> None:
    ran = list[int]()

    async def handler(job: dict[str, Any]) -> None:
        ran.append(job["n"])

    producer = stage.producer()
    await producer.send({"n": 1}, expires=0.01)
    await producer.send({"n": 2}, expires=60, headers={"traceparent": "x"})
    await asyncio.sleep(0.02)
    worker = await stage.work(stage.consumer(dict, handler))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert (ran, letter.reason, letter.message.body) == ([2], "expired", b'{"n":1}')
    await worker.stop()
    await stage.work(stage.consumer(dict, handler, options=Options(expired="run")))
    async with Inspector(stage.broker()) as inspector:
        await inspector.requeue(stage.stream, [letter.id])
    await stage.until_empty()
    assert ran == [2, 1]


async def test_batches_settle_each_item_by_itself(stage: Stage) -> None:
    sizes, failed = list[int](), set[int]()

    async def handle(items: list[dict[str, int]], contexts: list[Context]) -> list[Exception | None]:
        sizes.append(len(items))
        fresh = {item["n"] for item in items if item["n"] % 10 == 0} - failed
        failed.update(fresh)
        return [OSError("no") if item["n"] in fresh else None for item in items]

    await stage.producer().send_many([{"n": n} for n in range(300)])
    worker = await stage.work(stage.consumer(dict, handle, batch=Batch(size=50, wait=0.02), concurrency=2, retry=SOON))
    await stage.until_empty()
    counters = worker.consumers[0].counters
    assert (counters.acked, counters.retried, counters.dead) == (300, 30, 0)
    assert max(sizes) == 50
