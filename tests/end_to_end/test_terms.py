"""What a message or a consumer asks for beyond being run: how long, until when, in which order, many at once; on every broker."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock import Batch, Context, Inspector, Options, RetryPolicy, Send
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


async def test_messages_of_a_key_take_turns_and_keep_them_through_retries(stage: Stage) -> None:
    ran, inside, fouls = dict[str, list[tuple[int, int]]](), set[str](), list[int]()

    async def handle(job: dict[str, int], context: Context) -> None:
        key = context.key or ""
        if key in inside:
            fouls.append(job["n"])
        inside.add(key)
        ran.setdefault(key, []).append((job["n"], context.attempt))
        await asyncio.sleep(0.001)
        inside.remove(key)
        if job["n"] % 20 == 7 and context.attempt < 2:
            raise OSError
        if job["n"] == 42:
            raise ValueError

    jobs = [Send({"n": n}, key=f"k{n % 5}") for n in range(100)]
    await stage.producer().send_many(jobs)
    worker = await stage.work(stage.consumer(dict, handle, ordered=True, retry=SOON))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert (letter.reason, letter.message.body, letter.message.attempt) == ("maxAttempts(3)", b'{"n":42}', 2)
    counters = worker.consumers[0].counters
    assert (fouls, counters.acked, counters.dead) == ([], 99, 1)
    for number in range(5):
        expected = [
            (n, attempt) for n in range(number, 100, 5) for attempt in range(3 if n % 20 == 7 or n == 42 else 1)
        ]
        assert ran[f"k{number}"] == expected


async def test_a_retry_that_waits_in_place_outlives_the_worker(stage: Stage) -> None:
    attempts = list[int]()

    async def handle(job: dict[str, int], context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) < 4:
            raise OSError

    policy = RetryPolicy(max_attempts=9, backoff=lambda attempt: 0.01 if attempt < 2 else 0.4)
    await stage.producer().send({"n": 1}, key="k")
    worker = await stage.work(stage.consumer(dict, handle, ordered=True, retry=policy))
    await stage.until(lambda: len(attempts) == 3)
    await worker.stop()
    stats = await stage.stats()
    assert (stats.delayed, sum(group.leased for group in stats.groups)) == (1, 0)
    await stage.work(stage.consumer(dict, handle, ordered=True, retry=policy))
    await stage.until_empty()
    assert attempts == [0, 1, 2, 3]


async def test_a_stream_is_paused_for_every_worker_until_it_is_resumed(stage: Stage) -> None:
    ran = list[int]()

    async def handle(job: dict[str, int]) -> None:
        ran.append(job["n"])

    workers = [await stage.work(stage.consumer(dict, handle)) for _ in range(2)]
    async with Inspector(stage.broker()) as inspector:
        assert await inspector.pause(stage.stream)
        await stage.until(lambda: all(worker.consumers[0].paused for worker in workers))
        await stage.producer().send_many([{"n": n} for n in range(10)])
        late = await stage.work(stage.consumer(dict, handle))
        assert late.consumers[0].paused
        assert ((await stage.stats()).size, ran) == (10, [])
        assert [worker.ready for worker in (*workers, late)] == [True] * 3
        assert await inspector.resume(stage.stream)
        await stage.until_empty()
    assert sorted(ran) == list(range(10))
