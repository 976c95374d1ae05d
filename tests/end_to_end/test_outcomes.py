"""What handlers return and raise, several consumers in one worker, several groups, and keys that count once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from penstock import (
    Ack,
    Claim,
    Constant,
    Context,
    DeadLetter,
    Deduplicate,
    Delays,
    Idempotency,
    Outcome,
    Release,
    Retry,
    RetryPolicy,
    Send,
    open_store,
)
from penstock.stores.memory import MemoryStore
from tests.end_to_end.stage import Stage

SOON = RetryPolicy(max_attempts=3, backoff=Constant(delay=0.02))


class Order(msgspec.Struct):
    number: int


class Invoice(msgspec.Struct):
    text: str


class Flaky:
    """Does what the script says, one item an execution, the last one again and again; remembers the attempts."""

    def __init__(self, *script: Outcome | Exception | None) -> None:
        self._script = list(script)
        self.attempts: list[int] = []

    async def __call__(self, payload: Any, context: Context) -> Outcome | None:
        self.attempts.append(context.attempt)
        item = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(item, Exception):
            raise item
        return item


async def test_a_handler_that_fails_twice_and_then_succeeds_is_acked(stage: Stage) -> None:
    handler = Flaky(OSError("no"), OSError("still no"), None)
    await stage.producer(Order).send(Order(1))
    worker = await stage.work(stage.consumer(Order, handler, retry=SOON))
    await stage.until(lambda: len(handler.attempts) == 3)
    await stage.until_empty()
    assert handler.attempts == [0, 1, 2]
    assert await stage.dead() == []
    assert (worker.consumers[0].counters.retried, worker.consumers[0].counters.acked) == (2, 1)


async def test_after_the_last_attempt_the_message_is_dead_with_the_reason_and_the_error(stage: Stage) -> None:
    handler = Flaky(OSError("disk on fire"))
    await stage.producer(Order).send(Order(1), headers={"traceparent": "x"})
    await stage.work(stage.consumer(Order, handler, retry=SOON))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert handler.attempts == [0, 1, 2]
    assert letter.reason == "maxAttempts(3)"
    assert letter.error == "OSError: disk on fire"
    assert letter.message.body == b'{"number":1}'
    assert letter.message.headers == {"traceparent": "x"}


async def test_a_retry_that_the_handler_asks_for_counts_and_one_that_is_free_does_not(stage: Stage) -> None:
    counting, free = Flaky(Retry(0.01)), Flaky(*[Retry(0.01, counts=False)] * 6, None)
    await stage.producer(Order).send_many([Send(Order(1), type="counting"), Send(Order(2), type="free")])
    consumer = stage.consumer(Order, counting, retry=SOON, types="counting")
    consumer.handle(free, Order, types="free")
    await stage.work(consumer)
    await stage.until(lambda: len(free.attempts) == 7)
    await stage.until_empty()
    assert counting.attempts == [0, 1, 2]
    assert free.attempts == [0] * 7
    assert await stage.reasons() == ["maxAttempts(3)"]


async def test_errors_that_are_not_retryable_are_dead_at_once_and_policies_differ_by_exception(stage: Stage) -> None:
    policy = RetryPolicy(
        max_attempts=2,
        backoff=Delays([0.01]),
        is_retryable=lambda error: not isinstance(error, ValueError),
        per_exception={TimeoutError: RetryPolicy(max_attempts=4, backoff=Constant(delay=0.01))},
    )
    hopeless, patient = Flaky(ValueError("never")), Flaky(TimeoutError("slow"))
    await stage.producer(Order).send_many([Send(Order(1), type="hopeless"), Send(Order(2), type="patient")])
    consumer = stage.consumer(Order, hopeless, retry=policy, types="hopeless")
    consumer.handle(patient, Order, types="patient")
    await stage.work(consumer)
    await stage.until_empty()
    assert hopeless.attempts == [0]
    assert patient.attempts == [0, 1, 2, 3]
    assert await stage.reasons() == ["maxAttempts(4)", "non-retryable"]


async def test_a_released_message_comes_back_with_nothing_counted(stage: Stage) -> None:
    handler = Flaky(Release(), Release(0.05), None)
    await stage.producer(Order).send(Order(1))
    await stage.work(stage.consumer(Order, handler, retry=RetryPolicy(max_attempts=1)))
    await stage.until(lambda: len(handler.attempts) == 3)
    await stage.until_empty()
    assert handler.attempts == [0, 0, 0]


async def test_a_dead_letter_that_the_handler_asks_for_keeps_its_reason_and_meta_and_can_be_requeued(
    stage: Stage,
) -> None:
    handler = Flaky(DeadLetter("unpaid", meta={"since": 3}), None)
    await stage.producer(Order).send(Order(1))
    await stage.work(stage.consumer(Order, handler, retry=SOON))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert (letter.reason, letter.meta) == ("unpaid", {"since": 3})
    assert await stage._inspector().requeue(stage.stream, [letter.id]) == 1
    await stage.until(lambda: len(handler.attempts) == 2)
    await stage.until_empty()
    assert handler.attempts == [0, 0]
    assert await stage.dead() == []


async def test_several_consumers_in_one_worker_each_get_what_is_theirs(stage: Stage) -> None:
    orders: list[int] = []
    invoices: list[str] = []

    async def on_order(order: Order) -> None:
        orders.append(order.number)

    def on_invoice(invoice: Invoice) -> Ack:
        invoices.append(invoice.text)
        return Ack()

    broker = stage.broker()
    other = f"{stage.stream}-invoices"
    await stage.producer(Order).send_many([Order(n) for n in range(100)])
    producer = stage.producer(Invoice)
    producer.stream = other
    await producer.send_many([Invoice(str(n)) for n in range(100)])
    await stage.work(
        stage.consumer(Order, on_order, broker=broker, concurrency=5),
        stage.consumer(Invoice, on_invoice, broker=broker, stream=other, concurrency=5),
    )
    await stage.until(lambda: len(orders) == len(invoices) == 100)
    await stage.until_empty()
    assert sorted(orders) == list(range(100))
    assert sorted(invoices) == sorted(str(n) for n in range(100))


async def test_groups_are_independent_one_acks_one_retries_one_buries(stage: Stage) -> None:
    acking, retrying, burying = Flaky(None), Flaky(OSError("no"), None), Flaky(DeadLetter("unwanted"))
    broker = stage.broker()
    if not broker.capabilities.fanout:
        pytest.skip("this broker has no groups")
    handlers = {"acking": acking, "retrying": retrying, "burying": burying}
    await stage.work(*(stage.consumer(Order, h, broker=broker, group=name, retry=SOON) for name, h in handlers.items()))
    await stage.until(lambda: True)

    async def joined() -> bool:
        return len((await stage.stats()).groups) == 3

    await stage.until(joined)
    await stage.producer(Order).send_many([Order(n) for n in range(10)])
    await stage.until(lambda: len(acking.attempts) == 10)
    await stage.until(lambda: len(burying.attempts) == 10)
    await stage.until(lambda: len(retrying.attempts) == 11)
    await stage.until_empty()
    assert acking.attempts == [0] * 10
    assert sorted(retrying.attempts) == [0] * 10 + [1]
    assert burying.attempts == [0] * 10
    assert [(letter.reason, letter.group) for letter in await stage.dead()] == [("unwanted", "burying")] * 10


async def test_a_producer_with_idempotency_sends_a_key_once_however_often_it_is_asked(stage: Stage) -> None:
    handler = Flaky(None)
    producer = stage.producer(Order, idempotency=Idempotency(ttl=60.0))
    ids = await asyncio.gather(*(producer.send(Order(1), key="order-1") for _ in range(20)))
    assert len(set(ids)) == 1
    other = await producer.send(Order(2), key="order-2")
    await stage.work(stage.consumer(Order, handler))
    await stage.until(lambda: len(handler.attempts) >= 2)
    await stage.until_empty()
    assert await producer.send(Order(2), key="order-2") == other
    assert handler.attempts == [0, 0]
    assert (await stage.stats()).size == 0


@pytest.fixture
def make_store(stage: Stage) -> Callable[[], Any]:
    return lambda: MemoryStore() if stage.url.startswith("memory") else open_store(stage.url)


async def test_a_deduplicating_consumer_runs_each_key_once_also_when_its_twins_run_side_by_side(
    stage: Stage, make_store: Callable[[], Any]
) -> None:
    ran: list[int] = []
    store = make_store()

    async def handler(order: Order) -> None:
        await asyncio.sleep(0.05)  # the twins arrive meanwhile
        ran.append(order.number)

    producer = stage.producer(Order)
    for number in range(5):
        await producer.send_many([Send(Order(number), key=f"k{number}") for _ in range(4)])
    await stage.work(stage.consumer(Order, handler, middleware=[Deduplicate(store, pause=0.1)]))
    try:
        await stage.until_empty()
        assert sorted(ran) == [0, 1, 2, 3, 4]
        assert await stage.dead() == []
    finally:
        await store.close()


async def test_a_deduplicating_consumer_tries_a_failed_key_again(stage: Stage, make_store: Callable[[], Any]) -> None:
    handler, store = Flaky(OSError("no"), None), make_store()
    await stage.producer(Order).send(Order(1), key="k")
    await stage.work(stage.consumer(Order, handler, retry=SOON, middleware=[Deduplicate(store)]))
    try:
        await stage.until(lambda: len(handler.attempts) == 2)
        await stage.until_empty()
        await stage.producer(Order).send(Order(1), key="k")
        await stage.until_empty()
        assert handler.attempts == [0, 1]
    finally:
        await store.close()


async def test_a_delayed_message_is_not_early_and_is_not_forgotten(stage: Stage) -> None:
    loop, ran = asyncio.get_running_loop(), list[float]()

    async def handler(order: Order) -> None:
        ran.append(loop.time())

    sent = loop.time()
    await stage.work(stage.consumer(Order, handler, claim=Claim(min_idle=5.0)))
    await stage.producer(Order).send(Order(1), delay=0.4)
    await stage.until(lambda: bool(ran))
    await stage.until_empty()
    assert len(ran) == 1
    assert 0.39 <= ran[0] - sent < 2.0
