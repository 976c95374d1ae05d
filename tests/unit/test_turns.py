"""Several queues of brokers that take from one at a time: the order asked for, and nothing lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock import Consumer, Queues, RetryPolicy, Worker, open_broker
from penstock.broker import Broker, Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.errors import ConnectionFailed
from penstock.message import Delivery, Message
from penstock.retry import Constant
from penstock.turns import Turns

BOTH = Subscription(source="a,b", queues=("a", "b"))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(MemorySystem(), identity="me")


async def send(broker: Broker[Any], queue: str, *bodies: bytes) -> None:
    await broker.publish([Outgoing(destination=queue, message=Message(type="t", body=body)) for body in bodies])


def bodies(deliveries: Sequence[Delivery[Any]]) -> list[bytes]:
    return [delivery.message.body for delivery in deliveries]


async def test_what_comes_while_another_queue_answers_comes_with_the_next_look(broker: MemoryBroker):
    turns = Turns(broker.fetch)
    waiting = asyncio.ensure_future(turns.fetch(BOTH, 10, 10.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await send(broker, "a", b"1")
    assert [b"1"] == bodies(await waiting)
    await send(broker, "b", b"2")
    assert [b"2"] == bodies(await turns.fetch(BOTH, 10, 10.0))
    assert [] == list(await turns.stop())


async def test_a_cancelled_look_gives_what_it_took_to_whoever_stops_it(broker: MemoryBroker):
    fetched = asyncio.Event()

    class Stuck(MemoryBroker):
        async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
            if subscription.source == "b":
                fetched.set()
                await asyncio.Event().wait()
            return await super().fetch(subscription, limit, wait)

    stuck = Stuck(MemorySystem(), identity="me")
    await send(stuck, "a", b"1")
    turns = Turns(stuck.fetch)
    looking = asyncio.ensure_future(turns.fetch(BOTH, 10, 0.0))
    await fetched.wait()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert [b"1"] == bodies(await turns.stop())


async def test_a_queue_that_fails_is_told_of_and_costs_the_others_nothing(broker: MemoryBroker):
    down = asyncio.Event()

    class Broken(MemoryBroker):
        async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
            if subscription.source == "b" and wait:
                await down.wait()
                raise ConnectionFailed("gone")
            return await super().fetch(subscription, limit, wait)

    broken = Broken(MemorySystem(), identity="me")
    turns = Turns(broken.fetch)
    waiting = asyncio.ensure_future(turns.fetch(BOTH, 10, 10.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    down.set()
    await send(broken, "a", b"1")
    with pytest.raises(ConnectionFailed, match="gone"):
        await waiting
    assert [b"1"] == bodies(await turns.fetch(BOTH, 10, 0.0))


async def test_a_queue_that_nobody_asks_for_any_more_is_not_waited_for(broker: MemoryBroker):
    turns = Turns(broker.fetch)
    waiting = asyncio.ensure_future(turns.fetch(BOTH, 10, 10.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await send(broker, "a", b"1")
    await waiting
    only = Subscription(source="a,b", queues=("a",))
    await turns.fetch(only, 10, 0.0)
    await send(broker, "b", b"2")
    await send(broker, "a", b"3")
    assert [b"3"] == bodies(await turns.fetch(only, 10, 0.0))
    assert [b"2"] == bodies(await broker.fetch(Subscription(source="b"), 10, 0.0))


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
async def test_the_first_queue_comes_first_with_retries_and_all(url: str):
    broker, ran, done = open_broker(url), list[str](), asyncio.Event()

    async def handle(name: str, context: Any) -> None:
        ran.append(name)
        if name == "b0" and context.attempt == 0:
            raise ValueError("again")
        if len(ran) == 7:
            done.set()

    for queue in ("b", "a"):
        await broker.publish(
            [Outgoing(destination=queue, message=Message(type="str", body=f'"{queue}{n}"'.encode())) for n in range(3)]
        )
    retry = RetryPolicy(max_attempts=2, backoff=Constant(delay=0.0))
    async with Worker(Consumer(broker, Queues("a", "b"), str, handle, concurrency=1, retry=retry)) as worker:
        await asyncio.wait_for(done.wait(), 10)
        assert worker.consumers[0].name == "a,b/default"
    assert ["a0", "a1", "a2", "b0"] == ran[:4]
    assert {"b0", "b1", "b2"} == set(ran[4:])


async def test_a_paused_queue_is_left_out_and_comes_back(broker: MemoryBroker):
    ran, came = list[str](), asyncio.Event()

    async def handle(name: str) -> None:
        ran.append(name)
        came.set()

    await broker.pause("a")
    consumer = Consumer(broker, Queues("a", "b"), str, handle)
    async with Worker(consumer):
        for queue in ("a", "b"):
            await broker.publish([Outgoing(destination=queue, message=Message(type="str", body=f'"{queue}"'.encode()))])
        await asyncio.wait_for(came.wait(), 10)
        assert ["b"] == ran
        came.clear()
        await broker.resume("a")
        await consumer.follow(frozenset())
        await asyncio.wait_for(came.wait(), 10)
    assert ["b", "a"] == ran
