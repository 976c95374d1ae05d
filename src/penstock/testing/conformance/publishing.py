"""Publishing: what goes in arrives, whole, once, in order, and not early."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from ...broker import Broker, Outgoing, Settlement, Subscription
from ...outcome import Ack
from .harness import PATIENCE, Harness, bodies, message, numbered


class PublishingTests(Harness):
    async def test_a_published_message_arrives_whole(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        sent = message(b'{"a":1}', type="email.send", key="k:1", headers={"traceparent": "00-x", "tenant": "ü"})
        (ident,) = await self.send(broker, source, sent)
        got = (await self.one(broker, subscription)).message
        assert (sent.type, sent.body, sent.key, 0) == (got.type, got.body, got.key, got.attempt)
        assert sent.headers == got.headers
        assert sent.enqueued_at == got.enqueued_at
        assert ident == got.id

    async def test_a_first_delivery_counts_one(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        delivery = await self.one(broker, subscription)
        assert (1, 0, source, "g") == (delivery.count, delivery.attempt, delivery.source, delivery.group)
        assert delivery.defect is None

    async def test_every_message_of_a_batch_gets_its_own_id(self, broker: Broker[Any], source: str) -> None:
        ids = await self.send(broker, source, *[message()] * 50)
        assert 50 == len(set(ids))

    async def test_publishing_nothing_is_fine(self, broker: Broker[Any]) -> None:
        assert [] == list(await broker.publish([]))

    async def test_equal_messages_stay_distinct(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *[message(b"1", key="k")] * 20)
        assert 20 == len(await self.collect(broker, subscription, 20))

    async def test_order_is_kept_where_promised(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "ordered")
        sent = numbered(60)
        await self.send(broker, source, *sent[:30])
        for each in sent[30:]:
            await self.send(broker, source, each)
        assert [m.body for m in sent] == bodies(await self.collect(broker, subscription, 60))

    async def test_a_body_may_be_any_bytes(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        self.need(broker, "binary")
        body = bytes(range(256)) * 3
        await self.send(broker, source, message(body))
        assert body == (await self.one(broker, subscription)).message.body

    async def test_a_large_body_arrives(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        body = b'"' + b"x" * min(1_000_000, broker.capabilities.max_body - 1000) + b'"'
        await self.send(broker, source, message(body))
        assert body == (await self.one(broker, subscription)).message.body

    async def test_a_batch_larger_than_any_limit_arrives_whole(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        sent, subscription = numbered(2500), replace(subscription, lease=60.0)
        await self.send(broker, source, *sent)
        found: list[bytes] = []
        deadline = time.monotonic() + 3 * PATIENCE  # a server may take seconds for that many
        while len(found) < len(sent) and time.monotonic() < deadline:
            batch = await self.take(broker, subscription, limit=700, wait=1.0)
            assert len(batch) <= 700
            found += bodies(batch)
            await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in batch])
        assert sorted(m.body for m in sent) == sorted(found)

    async def test_destinations_do_not_mix(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        other = Subscription(source=f"{source}-b", group="g", lease=self.lease)
        await broker.publish(
            [Outgoing(destination=d, message=message(b)) for d, b in ((source, b"1"), (other.source, b"2"))]
        )
        assert [b"1"] == bodies(await self.collect(broker, subscription, 1))
        assert [b"2"] == bodies(await self.collect(broker, other, 1))

    async def test_a_delayed_message_waits(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        self.need(broker, "max_delay")
        assert [] == await self.take(broker, subscription)  # joining may take its time
        await self.send(broker, source, message(b'"later"'), delay=0.3)
        await self.send(broker, source, message(b'"now"'))
        assert [b'"now"'] == bodies(await self.collect(broker, subscription, 1))
        await self.lapse(0.35)
        assert [b'"later"'] == bodies(await self.collect(broker, subscription, 1))

    async def test_equal_delayed_messages_stay_distinct(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "max_delay")
        await self.send(broker, source, *[message(b"1")] * 20, delay=0.05)
        await self.lapse(0.1)
        assert 20 == len(await self.collect(broker, subscription, 20))

    async def test_a_message_for_next_year_stays_put(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if broker.capabilities.max_delay < 365 * 86_400:
            pytest.skip("the broker cannot delay that long")
        await self.send(broker, source, message(), delay=365 * 86_400)
        await self.lapse(0.1)
        assert [] == await self.take(broker, subscription)

    async def test_a_keyed_message_is_published_once(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        first = await self.publish_once(broker, source, b"1")
        second = await self.publish_once(await self.another(), source, b"2")
        assert first == second
        assert [b"1"] == bodies(await self.take(broker, subscription))

    async def test_a_duplicate_inside_one_batch_is_published_once(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        item = Outgoing(destination=source, message=message(key="k"), once=60)
        first, second, third = await broker.publish([item, Outgoing(destination=source, message=message()), item])
        assert first == third != second
        assert 2 == len(await self.take(broker, subscription))

    async def test_an_acked_message_is_still_known_by_its_key(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        first = await self.publish_once(broker, source, b"1")
        await self.settle(broker, await self.one(broker, subscription), Ack())
        assert first == await self.publish_once(broker, source, b"1")
        assert [] == await self.take(broker, subscription)

    async def test_another_type_or_key_is_another_message(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        ids = {
            await self.publish_once(broker, source, b"1"),
            await self.publish_once(broker, source, b"2", key="other"),
            await self.publish_once(broker, source, b"3", type="other"),
        }
        assert 3 == len(ids)
        assert 3 == len(await self.collect(broker, subscription, 3))

    async def test_a_key_is_forgotten_after_its_time(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        first = await self.publish_once(broker, source, b"1", once=1)
        await self.lapse(1.2)
        assert first != await self.publish_once(broker, source, b"2", once=1)
        assert 2 == len(await self.collect(broker, subscription, 2))

    async def test_a_keyed_message_may_be_delayed(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        self.need(broker, "max_delay")
        await self.publish_once(broker, source, b"1", delay=0.6)
        await self.publish_once(broker, source, b"2", delay=0.6)
        assert [] == await self.take(broker, subscription)
        await self.lapse(0.65)
        assert [b"1"] == bodies(await self.collect(broker, subscription, 1))
        assert [] == await self.take(broker, subscription)

    async def test_a_race_for_one_key_has_one_winner(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "idempotent")
        rivals = [broker, await self.another(), await self.another()]
        ids = await asyncio.gather(*[self.publish_once(rivals[n % 3], source, b"1") for n in range(30)])
        assert 1 == len(set(ids))
        assert 1 == len(await self.take(broker, subscription))

    async def publish_once(
        self,
        broker: Broker[Any],
        source: str,
        body: bytes,
        *,
        key: str = "k",
        type: str = "t",
        once: float = 60.0,
        delay: float = 0.0,
    ) -> str:
        item = Outgoing(destination=source, message=message(body, key=key, type=type), once=once, delay=delay)
        (ident,) = await broker.publish([item])
        return ident
