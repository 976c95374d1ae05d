"""Fan-out by SNS, and the second opinion on the essentials: moto, which speaks both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sqs import SqsBroker
from penstock.errors import ConfigurationError
from penstock.message import Delivery, Message
from penstock.outcome import Ack, DeadLetter, Outcome, Release, Retry
from tests.servers.sqs_server import SqsServer

A, B = (Subscription(source="news:eu", group=name, lease=5.0) for name in "ab")


@pytest.fixture(autouse=True)
def _empty(moto_server: SqsServer) -> None:
    moto_server.flush()


async def opened(server: SqsServer, **options: Any) -> SqsBroker:
    broker = SqsBroker.from_url(server.url, **options)
    await broker.open()
    return broker


async def one(broker: SqsBroker, subscription: Subscription) -> Delivery[Any]:
    async with asyncio.timeout(15):
        while not (found := await broker.fetch(subscription, 1, 1.0)):
            pass
    return found[0]


async def settle(broker: SqsBroker, delivery: Delivery[Any], outcome: Outcome) -> bool:
    return not await broker.settle([Settlement(delivery=delivery, outcome=outcome)])


def outgoing(body: bytes, delay: float = 0.0) -> Outgoing:
    message = Message(type="t", body=body, key="k", headers={"tenant": "ü"})
    return Outgoing(destination="news:eu", message=message, delay=delay)


async def test_each_group_gets_every_message_and_a_retry_is_its_own(moto_server: SqsServer) -> None:
    broker = await opened(moto_server, fanout="sns")
    try:
        assert broker.capabilities.fanout
        for subscription in (A, B):
            await broker.fetch(subscription, 0, 0.0)
        await broker.publish([outgoing(b"\x00 1")])
        first, other = await one(broker, A), await one(broker, B)
        assert (b"\x00 1", "k", {"tenant": "ü"}) == (first.message.body, first.message.key, first.message.headers)
        assert first.message == other.message.__class__(**{**_fields(other.message), "id": first.message.id})
        assert await settle(broker, first, Retry(0.0))
        assert await settle(broker, other, Ack())
        again = await one(broker, A)
        assert (1, b"\x00 1") == (again.attempt, again.message.body)
        assert [] == list(await broker.fetch(B, 1, 0.0))
        assert await settle(broker, again, Ack())
        assert ["news:eu"] == list(await broker.sources())
    finally:
        await broker.close()


async def test_groups_are_told_apart_and_the_dead_are_shared(moto_server: SqsServer) -> None:
    broker = await opened(moto_server, fanout="sns")
    try:
        for subscription in (A, B):
            await broker.fetch(subscription, 0, 0.0)
        await broker.publish([outgoing(b"1"), outgoing(b"2")])
        held = await one(broker, A)
        stats = await broker.stats("news:eu")
        assert [("a", 1, 1), ("b", 0, 2)] == sorted((each.name, each.leased, each.lag) for each in stats.groups)
        assert (2, 0) == (stats.size, stats.dead)
        assert await settle(broker, held, DeadLetter("no"))
        (letter,) = await broker.dead("news:eu", 10)
        assert "a" == letter.group
        assert 1 == await broker.requeue_dead("news:eu", [letter.id])
        stats = await broker.stats("news:eu")
        assert {"a": 2, "b": 3} == {each.name: each.lag for each in stats.groups}
        assert 3 == await broker.purge("news:eu")
    finally:
        await broker.close()


async def test_a_delayed_message_waits_in_each_group(moto_server: SqsServer) -> None:
    broker = await opened(moto_server, fanout="sns")
    try:
        await broker.fetch(A, 0, 0.0)
        sent = broker._clock.time()
        await broker.publish([outgoing(b"later", delay=2.0)])
        delivery = await one(broker, A)
        assert broker._clock.time() - sent >= 2.0
        assert (0, 1) == (delivery.attempt, delivery.count)
        assert await settle(broker, delivery, Ack())
    finally:
        await broker.close()


def test_fifo_queues_do_not_fan_out() -> None:
    with pytest.raises(ConfigurationError, match="standard queues"):
        SqsBroker.from_url("sqs://?region=r&fifo=true", fanout="sns")


async def test_the_essentials_hold_on_another_server_too(moto_server: SqsServer) -> None:
    broker, queue = await opened(moto_server), Subscription(source="q", lease=5.0)
    try:
        ids = await broker.publish(
            [Outgoing(destination="q", message=Message(type="t", body=b"%d" % n)) for n in range(12)]
        )
        found = dict[str, Delivery[Any]]()
        while len(found) < 12:
            found |= {delivery.message.id: delivery for delivery in await broker.fetch(queue, 20, 1.0)}
        assert set(ids) == set(found)
        held = list(found.values())
        assert [] == list(await broker.extend(held, 10.0))
        outcomes: list[Outcome] = [Ack()] * 9 + [Retry(0.0), DeadLetter("no"), Release()]
        items = [Settlement(delivery=each, outcome=outcome) for each, outcome in zip(held, outcomes, strict=True)]
        assert [] == list(await broker.settle(items))
        assert held[:1] == list(await broker.settle(items[:1]))
        again = [await one(broker, queue), await one(broker, queue)]
        assert [(0, 1), (1, 1)] == sorted((each.attempt, each.count) for each in again)
        (letter,) = await broker.dead("q", 10)
        assert (held[10].message.body, "no") == (letter.message.body, letter.reason)
        assert 1 == await broker.purge_dead("q", [letter.id])
    finally:
        await broker.close()


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}
