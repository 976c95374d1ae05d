"""RabbitmqBroker where messages were lost, run twice or stuck once: each of these failed before it was mended."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import aio_pika
import aiormq
import pytest
from msgspec.structs import replace
from pamqp import commands as spec

from penstock.broker import Outgoing, Settlement
from penstock.brokers.rabbitmq import RabbitmqBroker, names
from penstock.brokers.rabbitmq.core import IDLE
from penstock.brokers.rabbitmq.reading import Ticket
from penstock.errors import ConnectionFailed, PublishError, UnsupportedFeature
from penstock.message import Message
from penstock.outcome import Ack, DeadLetter
from tests.unit import test_rabbitmq as basics
from tests.unit.test_rabbitmq import EMAILS, one, queues_of, send, settle

url, make, broker, plain = basics.url, basics.make, basics.broker, basics.plain  # fixtures
_drop_connections = basics._drop_connections


async def nothing_left(broker: RabbitmqBroker) -> None:
    """What the management API tells is a moment old."""
    deadline = time.monotonic() + 10
    while any(row["messages"] for row in (await queues_of(broker)).values()):
        assert time.monotonic() < deadline, await queues_of(broker)
        await asyncio.sleep(0.1)


async def test_a_dead_letter_put_back_is_not_taken_for_the_one_that_died_here(make: Any) -> None:
    """Both have one id. The first died here; the second comes back from another worker's death."""
    broker, other = make(), make()
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")
    assert await settle(broker, await one(broker), DeadLetter("x"))
    (letter,) = await broker.dead("emails", 10)
    assert 1 == await broker.requeue_dead("emails", [letter.id])
    await one(other)
    await other._home.run(_drop_connections)
    assert b"1" == (await one(broker)).message.body


async def test_two_messages_that_another_program_gave_one_id_are_two(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    exchange = await plain.get_exchange("penstock")
    for body in (b"1", b"2"):
        await exchange.publish(aio_pika.Message(body, type="t", message_id="same"), "emails")
    assert await settle(broker, await one(broker), Ack())
    second = await (await plain.get_queue("emails@workers")).get()
    await second.reject(requeue=True)
    assert b"2" == (await one(broker)).message.body


async def test_a_queue_that_was_deleted_while_nobody_fetched_is_made_again(
    broker: RabbitmqBroker, plain: aio_pika.abc.AbstractChannel
) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await plain.queue_delete("emails@workers")
    await broker.fetch(EMAILS, 1, 0.0)
    await send(broker, b"1")
    assert b"1" == (await one(broker)).message.body


async def test_what_runs_is_not_handed_out_again_when_the_server_closes_its_channel(
    broker: RabbitmqBroker,
) -> None:
    lanes = replace(EMAILS, queues=("emails:high", "emails"))
    await broker.fetch(lanes, 0, 0.0)
    await send(broker, b"1")
    held = await one(broker, lanes)
    with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
        await broker._home.run(_reads_what_is_not_there)
    assert [] == list(await broker.fetch(lanes, 1, 0.5))
    assert await settle(broker, held, Ack())
    await nothing_left(broker)


async def _reads_what_is_not_there(core: Any) -> None:
    """It costs the channel."""
    (reader,) = core.readers()
    await reader._channel.call(spec.Basic.Consume(queue="nowhere", consumer_tag="x"), 5.0)


async def test_an_earlier_lane_goes_first_even_if_a_later_one_has_something_in_hand(broker: RabbitmqBroker) -> None:
    lanes = replace(EMAILS, queues=("emails:high", "emails"))
    await broker.fetch(lanes, 0, 0.0)

    await send(broker, b"low")
    await broker._home.run(lambda core: core.reader(lanes)._burst(1, 1))  # as a wait on all lanes at once does
    for body in (b"1", b"2"):
        await send(broker, body, "emails:high")
    assert [b"1", b"2", b"low"] == [(await one(broker, lanes)).message.body for _ in range(3)]


async def test_looking_as_often_as_one_likes_costs_no_connection(broker: RabbitmqBroker) -> None:
    """Each look has a channel of its own. Their numbers are 16 bits."""
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker)
    assert await settle(broker, await one(broker), DeadLetter("x"))
    for _ in range(5):
        assert 1 == len(await broker.dead("emails", 1))

    async def following(core: Any) -> int:
        return (await core.taking.channel(lambda _: None)).number

    assert await broker._home.run(following) <= 4


async def test_a_dead_letter_whose_meta_is_too_large_is_kept_without_it(broker: RabbitmqBroker) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1", headers={"h": "x" * 60_000})
    outcome = DeadLetter("z" * 100_000, error=ValueError("y" * 100_000), meta="m" * 200_000)
    assert await settle(broker, await one(broker), outcome)
    (letter,) = await broker.dead("emails", 10)
    assert (b"1", '"mmm') == (letter.message.body, letter.meta[:4])
    with pytest.raises(PublishError, match="at most"):
        await send(broker, headers={"h": "x" * 100_000})


async def test_what_no_group_takes_is_no_endless_work(make: Any, plain: aio_pika.abc.AbstractChannel) -> None:
    broker = make(exchange="jobs-headers", exchange_type="headers")
    await send(broker, b"ours")  # waits for a first group
    exchange = await plain.get_exchange("jobs-headers")
    await exchange.publish(aio_pika.Message(b"without the header", type="t", message_id="m"), "emails")
    found = await asyncio.wait_for(broker.fetch(EMAILS, 10, 5.0), 10.0)
    assert [b"ours"] == [each.message.body for each in found]


async def test_a_backlog_that_cannot_be_published_now_is_published_later(make: Any) -> None:
    broker = make()
    await broker.open()
    await send(broker, b"1")

    async def failing_once(core: Any) -> None:
        put = core.publisher.put

        async def refuse(parcels: Any) -> Any:
            if parcels:
                core.publisher.put = put
                raise ConnectionFailed("connection.blocked")
            return []

        core.publisher.put = refuse

    await broker._home.run(failing_once)
    with pytest.raises(ConnectionFailed):
        await broker.fetch(EMAILS, 1, 0.0)
    deadline = time.monotonic() + 10
    while not (found := await broker.fetch(EMAILS, 1, 1.0)):
        assert time.monotonic() < deadline
    assert [b"1"] == [each.message.body for each in found]


async def test_sizes_that_amqp_cannot_tell_are_refused_rather_than_told_as_zero(make: Any, url: str) -> None:
    broker = make()
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker)
    blind = RabbitmqBroker.from_url(url)
    try:
        with pytest.raises(UnsupportedFeature, match="management="):
            await blind.stats("emails")
        with pytest.raises(UnsupportedFeature, match="management="):
            await blind.purge("emails")
        assert 0 == (await blind.stats("unheard-of")).size
        await blind.fetch(EMAILS, 0, 0.0)
        assert 1 == (await blind.stats("emails")).size
    finally:
        await blind.close()


async def test_a_refused_message_leaves_nothing_on_the_server(broker: RabbitmqBroker) -> None:
    bad = Outgoing(destination="emails", message=Message(type="t", body=b"1"), delay=names.MAX_DELAY * 2)
    with pytest.raises(PublishError):
        await broker.publish([bad])
    assert {} == await queues_of(broker)


async def test_a_copy_that_comes_too_late_is_not_a_second_message(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = make(hold=0.2)
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")
    held = await one(broker)

    async def slow(core: Any) -> None:
        arrived, parking = core.parking._arrived, core.parking

        def late(source: str, group: str, arrival: Any) -> None:
            parking._arrived = arrived
            for came in parking._expected.values():
                came.cancel()  # as its time does
            asyncio.get_running_loop().call_later(0.3, arrived, source, group, arrival)

        parking._arrived = late

    await broker._home.run(slow)
    await asyncio.sleep(2.0)  # two looks
    assert await settle(broker, held, Ack())
    await nothing_left(broker)


async def test_what_a_cancelled_fetch_had_taken_by_a_channel_that_went_comes_again(broker: RabbitmqBroker) -> None:
    await broker.fetch(EMAILS, 0, 0.0)
    await send(broker, b"1")

    async def given_up(core: Any) -> None:
        reader, ticket = core.reader(EMAILS), Ticket()
        assert await reader.fetch(EMAILS, 1, 5.0, ticket)
        core.taking.abort()
        reader.give_up(ticket)

    await broker._home.run(given_up)
    assert b"1" == (await one(broker)).message.body


async def test_nothing_comes_to_a_worker_whose_fetch_was_cancelled(make: Any) -> None:
    paused, other = make(), make()
    waiting = asyncio.create_task(paused.fetch(EMAILS, 10, 30.0))
    await until(lambda: consumers(other), 1)
    waiting.cancel()
    await until(lambda: consumers(other), 0, within=IDLE / 2)
    await send(other, b"1")
    assert b"1" == (await one(other)).message.body


async def test_nothing_comes_to_a_worker_that_has_not_fetched_for_a_lease(make: Any) -> None:
    idle, other = make(), make()
    assert [] == list(await idle.fetch(replace(EMAILS, lease=0.5), 10, 0.1))
    assert 1 == await consumers(other)  # kept for the next fetch
    await until(lambda: consumers(other), 0)
    await send(other, b"1")
    assert b"1" == (await one(other)).message.body


async def test_what_came_for_one_order_of_queues_is_there_for_another(broker: RabbitmqBroker) -> None:
    lanes = replace(EMAILS, queues=("emails:high", "emails"))
    assert [] == list(await broker.fetch(lanes, 10, 0.1))
    await send(broker, b"1")
    assert b"1" == (await one(broker, replace(lanes, queues=("emails", "emails:high")))).message.body


async def consumers(broker: RabbitmqBroker) -> int:
    async def ask(core: Any) -> int:
        answer = await core.topology.call(spec.Queue.Declare(queue="emails@workers", passive=True), "asking")
        return int(answer.consumer_count)

    await broker.fetch(EMAILS, 0, 0.0)
    return await broker._home.run(ask)


async def until(ask: Any, expected: int, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while (found := await ask()) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("queues", [(), ("emails:high", "emails")])
async def test_what_was_never_lost_is_never_counted_however_it_is_fetched(make: Any, queues: tuple[str, ...]) -> None:
    """The server counts what it sends to a consumer that is just being cancelled, though nobody sees it."""
    owners, sender, dice = [make(), make()], make(), random.Random(5)
    subscription, count = replace(EMAILS, queues=queues), 2000
    counts: Counter[int] = Counter()
    bodies: Counter[bytes] = Counter()
    for lane in queues or ("emails",):
        await sender.fetch(replace(EMAILS, source=lane), 0, 0.0)

    async def work(owner: RabbitmqBroker) -> None:
        while bodies.total() < count:
            turned = replace(subscription, queues=queues[:: dice.choice((1, -1))])
            found = await owner.fetch(turned, dice.choice((1, 3, 10, 100)), dice.choice((0.0, 0.1)))
            counts.update(delivery.count for delivery in found)
            bodies.update(delivery.message.body for delivery in found)
            for some in (found[::2], found[1::2]):
                await asyncio.sleep(0)
                assert [] == list(await owner.settle([Settlement(delivery=each, outcome=Ack()) for each in some]))

    async def publish() -> None:
        for n in range(count):
            await send(sender, str(n).encode(), dice.choice(queues or ("emails",)))

    async with asyncio.timeout(50):
        await asyncio.gather(publish(), *map(work, owners))
    assert {1: count} == counts
    assert {str(n).encode(): 1 for n in range(count)} == bodies
    await nothing_left(sender)
