"""Kafka where messages were lost, stuck or kept in memory without end once: each of these failed before it was mended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from penstock.broker import Outgoing, Subscription
from penstock.brokers.kafka.book import MOST_BYTES
from penstock.brokers.kafka.membership import Membership, begin_with_the_next
from penstock.errors import UnsupportedFeature
from penstock.message import Message
from penstock.outcome import Ack, DeadLetter
from penstock.testing.proxy import FaultProxy
from tests.servers.kafka_server import KafkaServer, OwnKafka
from tests.unit import test_kafka_driver as basics
from tests.unit.test_kafka_driver import Open, publish, settle, take

opened, source, network = basics.opened, basics.source, basics.network  # fixtures


def member_of(broker: Any) -> Membership:
    (member,) = broker._shared.memberships.values()
    return member


async def test_waiting_for_long_leaves_nothing_behind(opened: Open, source: str) -> None:
    broker, subscription = opened(), Subscription(source=source)
    await broker.fetch(subscription, 0, 0.0)
    await broker.fetch(subscription, 1, 2.0)
    assert [] == member_of(broker)._bells


async def test_a_dead_letter_whose_meta_is_too_large_is_kept_without_it(opened: Open, source: str) -> None:
    broker, subscription = opened(), Subscription(source=source)
    await publish(broker, source, b"1")
    (delivery,) = await take(broker, subscription, 1)
    outcome = DeadLetter("z" * 2_000_000, error=ValueError("y" * 2_000_000), meta="m" * 2_000_000)
    assert [] == await settle(broker, outcome, delivery)
    (letter,) = await broker.dead(source, 10)
    assert (b"1", '"mmm') == (letter.message.body, letter.meta[:4])


async def test_a_topic_of_dead_letters_that_was_deleted_is_made_again(
    kafka_server: KafkaServer, opened: Open, source: str
) -> None:
    broker, subscription = opened(timeout=3.0), Subscription(source=source)
    await publish(broker, source, b"1", b"2")
    first, second = await take(broker, subscription, 2)
    await settle(broker, DeadLetter("x"), first)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    for future in admin.delete_topics([f"{source}.dead"]).values():
        future.result(10.0)
    await basics.eventually(lambda: settle(broker, DeadLetter("x"), second))
    assert [b"2"] == [letter.message.body for letter in await broker.dead(source, 10)]


async def test_delayed_messages_are_kept_in_memory_up_to_a_size(opened: Open, source: str) -> None:
    broker, subscription = opened(), Subscription(source=source)
    await broker.fetch(subscription, 0, 0.0)
    large = Message(type="t", body=b"x" * 900_000)
    for _ in range(10):
        await broker.publish([Outgoing(destination=source, message=large, delay=3000.0) for _ in range(20)])
    await broker.publish([Outgoing(destination=source, message=Message(type="t", body=b"soon"), delay=0.5)])
    assert [b"soon"] == [each.message.body for each in await take(broker, subscription, 1)]
    await broker.fetch(subscription, 1, 3.0)
    assert sum(book.bytes for book in member_of(broker).books.values()) < 2 * MOST_BYTES


async def test_two_workers_that_begin_a_group_at_once_do_not_get_in_each_others_way(opened: Open, source: str) -> None:
    first, second = opened(), opened()
    subscription = Subscription(source=source, start="next")
    await first.fetch(subscription, 1, 0.5)
    late = Membership(second._options, subscription, source, "late")._consumer

    class Looked:
        """It had looked before the first one began."""

        def committed(self, places: Any, timeout: float) -> Any:
            return places

        def commit(self, **terms: Any) -> Any:
            return late.commit(**terms)

    looked: Any = Looked()
    await asyncio.to_thread(begin_with_the_next, looked, {(source, 0): 0}, 5.0)
    late.close()


async def test_purging_takes_nothing_that_another_worker_works_on(
    kafka_server: OwnKafka, network: FaultProxy, opened: Open, source: str
) -> None:
    subscription, dying, other = Subscription(source=source), opened(kafka_server.proxied_url), opened()
    await publish(dying, source, b"1", b"2")
    await take(dying, subscription, 1)
    with pytest.raises(UnsupportedFeature, match="stop its workers"):
        await other.purge(source)
    assert 1 == await dying.purge(source)
    network.refuse()
    (found,) = await take(other, subscription, 1)
    assert b"1" == found.message.body
    assert [] == await settle(other, Ack(), found)
    assert 0 == (await other.stats(source)).size
