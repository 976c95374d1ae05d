"""What is peculiar to the Kafka driver: partitions that pass on, crashes that count, keys in order, bare clients."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer as BareConsumer
from confluent_kafka import Producer as BareProducer

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.kafka import KafkaBroker
from penstock.errors import ConfigurationError, ConnectionFailed
from penstock.message import Delivery, Message
from penstock.outcome import Ack, Outcome, Retry
from penstock.testing.proxy import FaultProxy
from tests.servers.kafka_server import KafkaServer, OwnKafka

PATIENCE = 20.0

Open = Callable[..., KafkaBroker]


@pytest.fixture
def source() -> str:
    return f"k-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def opened(kafka_server: KafkaServer) -> AsyncIterator[Open]:
    """Owners on the server; closed when the test ends."""
    brokers: list[KafkaBroker] = []

    def make(url: str = "", **options: Any) -> KafkaBroker:
        brokers.append(
            KafkaBroker.from_url(url or kafka_server.url, **{"partitions": 1, "session": 1.0, "drain": 1.0, **options})
        )
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.close()


async def publish(broker: KafkaBroker, source: str, *bodies: bytes, key: str | None = None) -> None:
    await broker.publish([Outgoing(destination=source, message=Message(type="t", body=b, key=key)) for b in bodies])


async def take(broker: KafkaBroker, subscription: Subscription, count: int) -> list[Delivery[Any]]:
    found: list[Delivery[Any]] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count and time.monotonic() < deadline:
        found += await broker.fetch(subscription, count - len(found), 0.2)
    assert count == len(found)
    return found


async def fetch_for(broker: KafkaBroker, subscription: Subscription, seconds: float) -> None:
    """Fetch again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await broker.fetch(subscription, 10, 1.0)


async def settle(broker: KafkaBroker, outcome: Outcome, *deliveries: Delivery[Any]) -> Sequence[Delivery[Any]]:
    return await broker.settle([Settlement(delivery=d, outcome=outcome) for d in deliveries])


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is no lost connection."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except ConnectionFailed:
            assert time.monotonic() < deadline


@pytest.fixture
async def network(kafka_server: KafkaServer) -> AsyncIterator[FaultProxy]:
    """What a broker at the server's ``proxied_url`` goes through."""
    if not isinstance(kafka_server, OwnKafka):
        pytest.skip("somebody's server is not advertised at a proxy")
    proxy = FaultProxy("127.0.0.1", kafka_server.inner)
    proxy.port = kafka_server.proxied
    async with proxy:
        yield proxy


async def test_what_a_silent_owner_held_is_redelivered_and_counted_and_what_it_settled_beyond_it_is_not(
    kafka_server: OwnKafka, network: FaultProxy, opened: Open, source: str
) -> None:
    subscription, dying, other = Subscription(source=source), opened(kafka_server.proxied_url), opened()
    await publish(dying, source, *(str(n).encode() for n in range(6)))
    held = await take(dying, subscription, 4)
    assert [] == await settle(dying, Ack(), held[1], held[3])
    network.refuse()
    found = await take(other, subscription, 4)
    assert [(b"0", 2), (b"2", 2), (b"4", 1), (b"5", 1)] == sorted((d.message.body, d.count) for d in found)
    assert [] == await settle(other, Ack(), *found)
    await network.listen()
    assert [held[0]] == await eventually(lambda: settle(dying, Ack(), held[0]))


async def test_a_partition_that_passes_on_is_drained_and_what_is_not_done_by_then_is_fenced(
    opened: Open, source: str
) -> None:
    subscription = Subscription(source=source)
    first, second = opened(partitions=2), opened(partitions=2)
    await publish(first, source, *(str(n).encode() for n in range(40)), key=None)
    held = await take(first, subscription, 40)
    joining = asyncio.create_task(take(second, subscription, 1))
    moved = await joining
    lost = await settle(first, Ack(), *held)
    assert lost
    assert {d.message.body for d in moved} <= {d.message.body for d in lost}
    assert 2 == moved[0].count


async def test_messages_of_a_key_wait_for_the_retry_of_an_earlier_one_and_others_do_not(
    opened: Open, source: str
) -> None:
    subscription, broker = Subscription(source=source, keyed=True), opened()
    await publish(broker, source, b"a1", b"a2", key="a")
    await publish(broker, source, b"b1", key="b")
    first, other = await take(broker, subscription, 2)
    assert [b"a1", b"b1"] == [first.message.body, other.message.body]
    await settle(broker, Retry(0.5), first)
    assert [] == list(await broker.fetch(subscription, 10, 0.1))
    (again,) = await take(broker, subscription, 1)
    assert (b"a1", 1, 1) == (again.message.body, again.attempt, again.count)
    await settle(broker, Ack(), again)
    assert [b"a2"] == [d.message.body for d in await take(broker, subscription, 1)]


async def test_a_retry_in_its_place_keeps_its_attempt_and_the_order_when_its_owner_falls_silent(
    kafka_server: OwnKafka, network: FaultProxy, opened: Open, source: str
) -> None:
    subscription, other = Subscription(source=source, keyed=True), opened()
    dying = opened(kafka_server.proxied_url)
    await publish(dying, source, b"1", b"2", key="k")
    for _ in range(2):
        await settle(dying, Retry(0.0), *await take(dying, subscription, 1))
    network.refuse()
    (found,) = await take(other, subscription, 1)
    assert (b"1", 2) == (found.message.body, found.attempt)
    await settle(other, Ack(), found)
    assert [b"2"] == [d.message.body for d in await take(other, subscription, 1)]


async def test_a_retry_never_holds_up_its_partition(opened: Open, source: str) -> None:
    subscription, broker = Subscription(source=source), opened()
    await publish(broker, source, b"1", b"2")
    (first,) = await take(broker, subscription, 1)
    await settle(broker, Retry(60.0), first)
    assert [b"2"] == [d.message.body for d in await take(broker, subscription, 1)]


async def test_more_delayed_messages_than_are_kept_in_memory_hold_up_none_that_is_due(
    opened: Open, source: str
) -> None:
    subscription, broker = Subscription(source=source), opened(in_flight=50)
    await broker.fetch(subscription, 0, 0.0)
    late = [Outgoing(destination=source, message=Message(type="t", body=b"late"), delay=50.0) for _ in range(120)]
    soon = Outgoing(destination=source, message=Message(type="t", body=b"soon"), delay=0.5)
    await broker.publish([*late, soon])
    assert [b"soon"] == [d.message.body for d in await take(broker, subscription, 1)]
    assert 120 == (await broker.stats(source)).delayed


async def test_a_bare_client_publishes_a_message_by_its_value_alone_and_reads_ours(
    kafka_server: KafkaServer, opened: Open, source: str
) -> None:
    subscription, broker = Subscription(source=source), opened(default_type="email.send")
    await broker.fetch(subscription, 0, 0.0)
    bare = BareProducer({"bootstrap.servers": kafka_server.bootstrap})
    bare.produce(source, b'{"to":"a"}')
    bare.produce(source, b'{"to":"b"}', key=b"b", headers=[("type", b"email.drop"), ("tenant", b"acme")])
    assert 0 == bare.flush(10.0)
    first, second = [d.message for d in await take(broker, subscription, 2)]
    assert ("email.send", b'{"to":"a"}', None, 0) == (first.type, first.body, first.key, first.attempt)
    assert ("email.drop", "b", {"tenant": "acme"}) == (second.type, second.key, second.headers)
    sent = Message(type="email.send", body=b'{"to":"c"}', key="c", headers={"tenant": "acme"})
    (ident,) = await broker.publish([Outgoing(destination=source, message=sent)])
    reader = BareConsumer(
        {"bootstrap.servers": kafka_server.bootstrap, "group.id": source, "auto.offset.reset": "earliest"}
    )
    reader.subscribe([source])
    found: list[Any] = []
    while len(found) < 3:
        found += reader.consume(3 - len(found), 10.0)
    reader.close()
    headers = dict(found[2].headers())
    assert (b"c", b'{"to":"c"}') == (found[2].key(), found[2].value())
    assert (ident.encode(), b"email.send", b"acme") == (headers["id"], headers["type"], headers["tenant"])


async def test_a_missing_topic_is_a_clear_error_where_none_may_be_made(opened: Open, source: str) -> None:
    broker = opened(create=False)
    with pytest.raises(ConfigurationError, match=f"no topic {source}.*create it"):
        await publish(broker, source, b"1")
    with pytest.raises(ConfigurationError, match="no topic"):
        await broker.fetch(Subscription(source=source), 0, 0.0)


async def test_a_session_that_the_server_forbids_is_a_clear_error(opened: Open, source: str) -> None:
    broker = opened(session=0.1)
    with pytest.raises(ConfigurationError, match="session"):
        await fetch_for(broker, Subscription(source=source), PATIENCE)


async def test_a_network_that_lets_nothing_through_is_noticed_and_work_goes_on_after_it(
    kafka_server: OwnKafka, network: FaultProxy, opened: Open, source: str
) -> None:
    subscription, broker = Subscription(source=source), opened(kafka_server.proxied_url, timeout=2.0, session=6.0)
    await publish(broker, source, b"1")
    held = await take(broker, subscription, 1)
    network.blackhole()
    with pytest.raises(ConnectionFailed):
        await publish(broker, source, b"2")
    with pytest.raises(ConnectionFailed):
        await fetch_for(broker, subscription, PATIENCE)
    network.heal()
    await eventually(lambda: settle(broker, Ack(), *held))
    await eventually(lambda: publish(broker, source, b"3"))
    found: set[bytes] = set()
    while b"3" not in found:
        found |= {d.message.body for d in await eventually(lambda: broker.fetch(subscription, 10, 1.0))}
    await broker.close()


async def test_a_cluster_that_is_not_there_is_a_failed_connection_in_time() -> None:
    broker = KafkaBroker.from_url("kafka://127.0.0.1:9", timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        await broker.open()
    await broker.close()
    assert time.monotonic() - began < 5.0
