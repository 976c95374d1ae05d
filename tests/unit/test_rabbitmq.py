"""What is peculiar to the RabbitMQ driver: formats, exchanges, delays, long handlers, and what its server does to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from msgspec.structs import replace

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.rabbitmq import RabbitmqBroker, names
from penstock.brokers.rabbitmq.options import RabbitmqAddress
from penstock.errors import AccessDenied, ConfigurationError, ConnectionFailed, InvalidURL, PublishError
from penstock.message import Delivery, Message
from penstock.outcome import Ack, DeadLetter, Retry
from tests.servers.rabbitmq_server import RabbitmqServer

EMAILS = Subscription(source="emails", group="workers", lease=30.0)


@pytest.fixture
def url(rabbitmq_server: RabbitmqServer) -> Any:
    url = rabbitmq_server.vhost()
    yield url
    rabbitmq_server.drop(url)


@pytest.fixture
async def make(url: str, rabbitmq_server: RabbitmqServer) -> AsyncIterator[Any]:
    """Brokers that are closed when the test ends."""
    opened: list[RabbitmqBroker] = []

    def make(**options: Any) -> RabbitmqBroker:
        opened.append(RabbitmqBroker.from_url(url, management=rabbitmq_server.management, **options))
        return opened[-1]

    yield make
    for broker in opened:
        await broker.close()


@pytest.fixture
def broker(make: Any) -> RabbitmqBroker:
    return make()


@pytest.fixture
async def plain(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A client that knows nothing of us."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


async def send(broker: RabbitmqBroker, body: bytes = b"{}", source: str = "emails", **fields: Any) -> None:
    delay = fields.pop("delay", 0.0)
    message = replace(Message(type="email.send", body=body), **fields)
    await broker.publish([Outgoing(destination=source, message=message, delay=delay)])


async def one(broker: RabbitmqBroker, subscription: Subscription = EMAILS, wait: float = 10.0) -> Delivery[Any]:
    (delivery,) = await broker.fetch(subscription, 1, wait)
    return delivery


async def settle(broker: RabbitmqBroker, delivery: Delivery[Any], outcome: Any) -> bool:
    return not await broker.settle([Settlement(delivery=delivery, outcome=outcome)])


async def test_a_plain_client_reads_what_we_published(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    headers = {"tenant": "acme", "n": 7, "deep": {"a": [True, None]}}
    await send(broker, b'{"to":"ada"}', key="k", headers=headers, enqueued_at=1_700_000_000.0)
    queue = await plain.get_queue("emails@workers")
    found = await queue.get()
    assert (b'{"to":"ada"}', "email.send") == (found.body, found.type)
    assert found.message_id
    assert aio_pika.DeliveryMode.PERSISTENT is found.delivery_mode
    assert found.timestamp is not None
    assert 1_700_000_000 == found.timestamp.timestamp()
    told = {name: value for name, value in found.headers.items() if not name.startswith("x-")}
    assert {**headers, "penstock-key": "k"} == told
    await found.ack()


async def test_we_read_what_a_plain_client_published(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    exchange = await plain.get_exchange("penstock")
    sent = aio_pika.Message(b'{"to":"bob"}', type="email.send", message_id="m-1", headers={"tenant": "acme"})
    await exchange.publish(sent, "emails")
    delivery = await one(broker)
    message = delivery.message
    assert ("m-1", "email.send", b'{"to":"bob"}', {"tenant": "acme"}) == (
        message.id,
        message.type,
        message.body,
        message.headers,
    )
    assert await settle(broker, delivery, Retry(0.0))
    again = await one(broker)
    assert ("m-1", 1, {"tenant": "acme"}) == (again.message.id, again.attempt, again.message.headers)


async def test_headers_that_amqp_cannot_say_exactly_survive_all_the_same(broker: RabbitmqBroker) -> None:
    headers = {"third": 1 / 3, "huge": 2**70, "x-death": "mine", "long" * 50: 1}
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, headers=headers, enqueued_at=1_700_000_000.123456)
    delivery = await one(broker)
    assert (headers, 1_700_000_000.123456) == (delivery.message.headers, delivery.message.enqueued_at)


async def test_a_retry_goes_back_to_its_own_queue_and_is_never_broadcast_again(make: Any) -> None:
    """G18: on a fan-out exchange every bound queue gets every job, but a retry only goes where it failed."""
    broker = make(exchange="jobs", exchange_type="fanout")
    invoices = Subscription(source="invoices", group="workers")
    for each in (EMAILS, invoices):
        await broker.fetch(each, 0, 0.0)
    await send(broker)
    first, other = await one(broker), await one(broker, invoices)
    assert await settle(broker, other, Ack())
    for delay in (0.0, 0.05):
        assert await settle(broker, first, Retry(delay))
        first = await one(broker)
    assert 2 == first.attempt
    assert [] == list(await broker.fetch(invoices, 10, 0.2))


@pytest.mark.parametrize("kind", ["direct", "topic", "headers"])
async def test_other_kinds_of_exchange_keep_sources_apart_now_and_later(make: Any, kind: str) -> None:
    broker = make(exchange=f"jobs-{kind}", exchange_type=kind)
    invoices = Subscription(source="invoices", group="workers")
    for each in (EMAILS, invoices):
        await broker.fetch(each, 0, 0.0)
    await send(broker, b"now")
    await send(broker, b"later", delay=0.05)
    assert [b"now", b"later"] == [(await one(broker)).message.body, (await one(broker)).message.body]
    assert [] == list(await broker.fetch(invoices, 10, 0.1))


async def test_a_pattern_subscribes_to_many_sources_of_a_topic_exchange(broker: RabbitmqBroker) -> None:
    orders = Subscription(source="orders.*", group="audit")
    await broker.fetch(orders, 0, 0.0)
    await send(broker, b"1", "orders.created")
    await send(broker, b"2", "orders.paid", delay=0.05)
    found = [await one(broker, orders), await one(broker, orders)]
    assert [b"1", b"2"] == [d.message.body for d in found]
    assert await settle(broker, found[0], Retry(0.05))
    assert (b"1", 1) == ((again := await one(broker, orders)).message.body, again.attempt)


@pytest.mark.parametrize("delay", [0.001, 0.1, 0.7, 1.3])
async def test_a_delay_is_kept_to_the_fraction_of_a_second_and_never_early(
    broker: RabbitmqBroker, delay: float
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"0", delay=60.0)  # nothing waits behind what is due later
    began = time.monotonic()
    await send(broker, b"1", delay=delay)
    assert b"1" == (await one(broker)).message.body
    assert delay <= time.monotonic() - began < delay + 0.5


@pytest.mark.parametrize("delay", [0.025, 1.0, 3600.0, 77 * 86_400.0, 365 * 86_400.0, names.MAX_DELAY])
def test_the_steps_of_a_delay_add_up_to_it(delay: float) -> None:
    waited = sum(2 ** min(step, names.BITS - 1) for step in names.steps(delay)) * names.TICK
    assert delay <= waited + 1e-6
    assert waited < delay + names.TICK + 1e-6


async def test_a_queue_that_is_made_differently_is_named_with_the_difference(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await plain.declare_queue("emails@workers", durable=True)
    with pytest.raises(ConfigurationError, match=r"'emails@workers'.*inequivalent arg"):
        await broker.fetch(EMAILS, 1, 0.0)
    await broker.fetch(replace(EMAILS, group="others"), 0, 0.0)


async def test_a_queue_that_was_deleted_is_made_again(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    waiting = asyncio.create_task(broker.fetch(EMAILS, 1, 10.0))
    await asyncio.sleep(0.2)
    await plain.queue_delete("emails@workers")
    assert [] == list(await asyncio.wait_for(waiting, 5.0))
    await send(broker, b"1")
    assert b"1" == (await one(broker)).message.body


async def test_one_message_that_cannot_be_sent_spares_the_others_of_its_batch(broker: RabbitmqBroker) -> None:
    good = Outgoing(destination="emails", message=Message(type="t", body=b"1"))
    bad = [
        Outgoing(destination="emails", message=Message(type="t" * 300, body=b"2")),
        Outgoing(destination="emails", message=Message(type="t", body=b"3", headers={"h": "x" * 200_000})),
        Outgoing(destination="em@ils", message=Message(type="t", body=b"4")),
    ]
    with pytest.raises(PublishError) as caught:
        await broker.publish([good, *bad, good])
    fates = caught.value.results
    assert [str, Exception, Exception, Exception, str] == [str if isinstance(f, str) else Exception for f in fates]
    assert 2 == len(await broker.fetch(EMAILS, 10, 0.0))


async def test_what_runs_for_long_moves_to_its_worker_and_is_acked_there(make: Any, url: str) -> None:
    broker, other = make(hold=0.3), make()
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"long")
    held = await one(broker)
    held_queue = ""
    for _ in range(12):
        await asyncio.sleep(0.1)
        assert [] == list(await broker.extend([held], 30.0))
    assert [] == list(await other.fetch(EMAILS, 10, 0.0))
    queues = await queues_of(broker)
    (held_queue,) = [name for name in queues if "@@held-" in name]
    assert await settle(broker, held, Ack())
    await asyncio.sleep(0.3)
    queues = await queues_of(broker)
    assert (0, 0) == (queues[held_queue]["messages"], queues["emails@workers"]["messages"])


async def test_what_ran_for_long_is_retried_from_where_it_moved(make: Any) -> None:
    broker = make(hold=0.2)
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"long")
    held = await one(broker)
    await asyncio.sleep(0.8)
    assert await settle(broker, held, Retry(0.0))
    again = await one(broker)
    assert (b"long", 1, 1) == (again.message.body, again.attempt, again.count)


async def test_what_a_dead_worker_had_moved_comes_back_to_the_group(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.brokers.rabbitmq.parking.BACK_AFTER", 0.5)
    broker, other = make(hold=0.2), make()
    short = replace(EMAILS, lease=0.5)
    await broker.fetch(short, 0, 0.0)
    await send(broker, b"long")
    held = await one(broker, short)
    for _ in range(8):
        await asyncio.sleep(0.1)
        await broker.extend([held], 0.5)
    await broker._home.run(_drop_connections)
    found = await one(other, short)
    assert (b"long", 2) == (found.message.body, found.count)


async def _drop_connections(core: Any) -> None:
    """As a death does: nothing is given back."""
    if core._keeper is not None:
        core._keeper.cancel()
    core.taking.abort()
    core.publishing.abort()


async def test_a_lost_ack_is_made_up_for_when_the_message_comes_back(make: Any) -> None:
    broker = make()
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")
    held = await one(broker)

    async def ack_in_vain(core: Any) -> None:
        entry = core.holdings.table[held.receipt]
        core.holdings.done(entry)  # the outcome is known here, but the ack never gets out
        core.taking.abort()

    await broker._home.run(ack_in_vain)
    assert [] == list(await broker.fetch(EMAILS, 10, 1.0))
    assert 0 == (await broker.stats("emails")).size


async def test_a_server_that_buries_by_itself_says_why(make: Any) -> None:
    broker = make(delivery_limit=1)
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")
    short = replace(EMAILS, lease=0.2)
    for _ in range(2):
        await one(broker, short)
        await asyncio.sleep(0.5)
    deadline = time.monotonic() + 10
    while not (letters := await broker.dead("emails", 10)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert [("poison", b"1")] == [(letter.reason, letter.message.body) for letter in letters]
    assert 1 == await broker.requeue_dead("emails", [letters[0].id])
    assert 0 == (await one(broker)).attempt


async def test_a_full_server_makes_publishing_fail_in_time_and_lets_acks_through(
    make: Any, rabbitmq_server: RabbitmqServer
) -> None:
    broker = make(timeout=1.0)
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker)
    held = await one(broker)

    async def blocked(core: Any) -> None:  # as the server's word connection.blocked does
        core.publishing._connection._Connection__connection_unblocked.clear()

    await broker._home.run(blocked)
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match=r"connection\.blocked"):
        await send(broker)
    assert time.monotonic() - began < 3
    assert await settle(broker, held, Ack())


async def test_looking_at_what_a_group_waits_for_is_refused_since_it_would_count(broker: RabbitmqBroker) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker)
    with pytest.raises(ConfigurationError, match="counts each look"):
        await broker.peek("emails", 10)


async def test_without_the_management_api_queues_cannot_be_listed(url: str) -> None:
    broker = RabbitmqBroker.from_url(url)
    with pytest.raises(ConfigurationError, match="management="):
        await broker.sources()
    await send(broker)
    await broker.fetch(EMAILS, 1, 0.0)
    stats = await broker.stats("emails")
    assert (1, ["workers"]) == (stats.size, [group.name for group in stats.groups])
    await broker.close()


async def test_a_wrong_password_a_missing_vhost_and_an_outage_are_told_apart(
    rabbitmq_server: RabbitmqServer, url: str
) -> None:
    with pytest.raises(AccessDenied):
        await RabbitmqBroker.from_url(url.replace("guest:guest", "guest:wrong")).open()
    with pytest.raises(ConnectionFailed, match="vhost"):
        await RabbitmqBroker.from_url(f"{rabbitmq_server.url}/nowhere").open()
    with pytest.raises(ConnectionFailed):
        await RabbitmqBroker.from_url("amqp://guest:guest@127.0.0.1:1/").open()


@pytest.mark.parametrize(
    ("given", "host", "port", "vhost", "scheme"),
    [
        ("amqp://localhost", "localhost", 5672, "/", "amqp"),
        ("rabbitmq://u:p@h:1/v", "h", 1, "v", "amqp"),
        ("amqps://h/%2Fx", "h", 5671, "/x", "amqps"),
        ("rabbitmqs://u@h/", "h", 5671, "/", "amqps"),
    ],
)
def test_an_address_is_understood(given: str, host: str, port: int, vhost: str, scheme: str) -> None:
    address = RabbitmqAddress.parse(given)
    assert (host, port, vhost, scheme) == (address.host, address.port, address.vhost, address.scheme)


@pytest.mark.parametrize("given", ["amqp://", "http://h", "amqp://h:port", "amqp://h?prefetch=1"])
def test_a_wrong_address_is_refused(given: str) -> None:
    with pytest.raises((InvalidURL, ConfigurationError)):
        RabbitmqAddress.parse(given)


def test_a_password_is_never_shown() -> None:
    broker = RabbitmqBroker.from_url("amqp://user:secret@host/v")
    assert "secret" not in f"{broker.url} {broker._address!r}"


@pytest.mark.parametrize(
    "wrong", [{"exchange": ""}, {"exchange": "amq.topic"}, {"exchange_type": "x"}, {"heartbeat": 0}, {"managment": "x"}]
)
def test_wrong_options_are_refused_where_they_are_given(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RabbitmqBroker.from_url("amqp://localhost", **wrong)


async def test_dead_letters_are_read_by_a_plain_client_with_the_reason(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")
    assert await settle(broker, await one(broker), DeadLetter("refused", ValueError("no"), meta={"a": 1}))
    queue = await plain.get_queue("emails@@dead")
    found = await queue.get()
    told = {name: found.headers[f"penstock-{name}"] for name in ("reason", "error", "meta", "group")}
    assert {"reason": "refused", "error": "ValueError: no", "meta": '{"a":1}', "group": "workers"} == told
    assert b"1" == found.body
    await found.reject(requeue=True)


async def queues_of(broker: RabbitmqBroker) -> dict[str, Any]:
    from penstock.brokers.rabbitmq import management

    return await management.queues(broker._address, broker._options, "list")
