"""Entries of Redis that hold several events, dead letters of the originals, and what becomes of them. On real servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import open_broker
from penstock.broker import Settlement, Subscription
from penstock.brokers.redis_streams import EventsDialect, RedisStreamsBroker
from penstock.errors import ConfigurationError
from penstock.message import Delivery
from penstock.outcome import ACK, DeadLetter, Outcome, Release, Retry
from tests.servers.redis_server import Server

SUB = Subscription(source="s", group="g", lease=0.4)


def envelope(n: int, type_: str = "svc.t") -> dict[str, Any]:
    header = {"id": f"id{n}", "type": type_, "origin": "svc", "timestamp": "2026", "hash": "h", "version": "1.0.0"}
    return {"header": header, "body": n}


def batch_of_2(*numbers: int) -> str:
    messages = [{"eventType": "t", "body": n, "originalId": f"id{n}", "envelope": envelope(n)} for n in numbers]
    header = {"type": "user-batch", "messageCount": len(numbers), "batchId": "ab", "timestamp": "2026"}
    return json.dumps({"pattern": "user-batch", "data": {"header": header, "body": {"messages": messages}}})


def batch_of_3(*numbers: int) -> str:
    return json.dumps({"data": [envelope(n) for n in numbers], "metadata": {"batch": True, "count": len(numbers)}})


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Any]:
    made: list[RedisStreamsBroker] = []

    def one(**options: Any) -> RedisStreamsBroker:
        made.append(RedisStreamsBroker.from_url(redis_url, dialect=EventsDialect(), **options))
        return made[-1]

    yield one
    for broker in made:
        await broker.close()


async def settle(broker: RedisStreamsBroker, *pairs: tuple[Delivery[Any], Outcome]) -> list[Any]:
    lost = await broker.settle([Settlement(delivery=delivery, outcome=outcome) for delivery, outcome in pairs])
    return [delivery.message.body for delivery in lost]


def bodies(deliveries: Any) -> list[bytes]:
    return [delivery.message.body for delivery in deliveries]


@pytest.mark.parametrize("data", [batch_of_2(1, 2, 3), batch_of_3(1, 2, 3)], ids=["release 2", "release 3"])
async def test_each_event_of_a_batch_is_a_delivery_and_the_entry_goes_with_the_last(
    make: Any, shared_server: Server, data: str
):
    shared_server.call("XADD", "s", "*", "data", data, "batch", "true")
    broker = make()
    one, two, three = await broker.fetch(SUB, 10, 0.0)
    assert ([b"1", b"2", b"3"], "svc.t", "id2") == (
        bodies([one, two, three]),
        two.message.type,
        two.message.headers["id"],
    )

    assert [] == await settle(broker, (one, ACK), (three, ACK))
    assert 1 == shared_server.call("XPENDING", "s", "g")["pending"]
    assert [b"3"] == await settle(broker, (three, ACK)), "it has its outcome already"
    assert [] == await settle(broker, (two, ACK))
    assert (0, 0) == (shared_server.call("XPENDING", "s", "g")["pending"], shared_server.call("XLEN", "s"))


async def test_what_fails_of_a_batch_goes_on_alone_when_the_others_are_done(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_2(1, 2, 3, 4))
    broker = make()
    one, two, three, four = await broker.fetch(SUB, 10, 0.0)
    outcomes = [(one, Retry(0.0)), (two, DeadLetter("because", ValueError("no"))), (three, ACK), (four, Release())]

    assert [] == await settle(broker, *outcomes)
    assert 0 == shared_server.call("XLEN", "s")
    (letter,) = await broker.dead("s", 10)
    assert ("because", "ValueError: no", b"2") == (letter.reason, letter.error, letter.message.body)
    await broker.promote_due("s", 10)
    again = await broker.fetch(SUB, 10, 0.0)
    assert {b"1": 1, b"4": 0} == {each.message.body: each.attempt for each in again}
    assert all(each.message.headers["origin"] == "svc" for each in again)


async def test_a_retry_of_a_batch_comes_to_its_own_group_only(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    broker, other = make(), Subscription(source="s", group="h", lease=0.4)
    await broker.fetch(other, 0, 0.0)
    one, two = await broker.fetch(SUB, 10, 0.0)
    assert [] == await settle(broker, (one, ACK), (two, Retry(0.0)))
    await settle(broker, *((each, ACK) for each in await broker.fetch(other, 10, 0.0)))
    await broker.promote_due("s", 10)

    assert [] == list(await broker.fetch(other, 10, 0.0))
    assert [b"2"] == bodies(await broker.fetch(SUB, 10, 0.0))


async def test_a_batch_whose_worker_dies_comes_again_whole(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    dying, heir = make(), make()
    one, two = await dying.fetch(SUB, 10, 0.0)
    await settle(dying, (one, ACK))
    await asyncio.sleep(0.5)
    again = await heir.reclaim(SUB, 10)

    assert ([b"1", b"2"], [2, 2]) == (bodies(again), [each.count for each in again])
    assert all(each.predecessor.owner == dying.identity for each in again)
    assert [b"2"] == await settle(dying, (two, ACK)), "it is another owner's now"
    assert [] == await settle(heir, *((each, ACK) for each in again))


async def test_an_owner_that_takes_its_own_batch_again_gets_what_has_no_outcome(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    broker = make()
    one, two = await broker.fetch(SUB, 10, 0.0)
    await settle(broker, (one, DeadLetter("x")))
    await asyncio.sleep(0.5)
    (again,) = await broker.reclaim(SUB, 10)

    assert (b"2", 2) == (again.message.body, again.count)
    assert [b"2"] == await settle(broker, (two, ACK)), "under its old lease"
    assert [] == await settle(broker, (again, ACK))
    assert [b"1"] == [letter.message.body for letter in await broker.dead("s", 10)]


async def test_whoever_extends_one_event_of_a_batch_extends_all(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    broker, other = make(), make()
    one, two = await broker.fetch(SUB, 10, 0.0)
    keeper = broker.fork()
    for _ in range(3):
        await asyncio.sleep(0.2)
        assert [] == list(await keeper.extend([two, one], 0.4))
    await keeper.close()
    assert [] == list(await other.reclaim(SUB, 10))
    await asyncio.sleep(0.5)
    await other.reclaim(SUB, 10)
    assert {b"1", b"2"} == set(bodies(await broker.extend([one, two], 0.4)))


async def test_a_batch_that_is_given_back_is_there_at_once_and_counts_nothing(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    broker, other = make(), make()
    await settle(broker, *((each, Release()) for each in await broker.fetch(SUB, 10, 0.0)))
    again = await other.fetch(SUB, 10, 0.0)
    assert ([b"1", b"2"], [1, 1]) == (bodies(again), [each.count for each in again])
    await other.close()
    assert [b"1", b"2"] == bodies(await broker.fetch(SUB, 10, 0.0)), "a broker that closes gives back as well"


async def test_outcomes_that_were_refused_are_taken_again(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", batch_of_3(1, 2))
    shared_server.call("SET", "s-dlq", "no stream")
    broker = make()
    one, two = await broker.fetch(SUB, 10, 0.0)
    await settle(broker, (one, ACK))
    with pytest.raises(Exception, match="WRONGTYPE"):
        await settle(broker, (two, DeadLetter("x")))
    shared_server.call("DEL", "s-dlq")

    assert [] == await settle(broker, (two, DeadLetter("x")))
    assert 1 == shared_server.call("XLEN", "s-dlq")


async def test_one_bad_event_of_a_batch_is_dead_with_its_text_and_hurts_no_other(make: Any, shared_server: Server):
    data = json.dumps(
        {"data": [envelope(1), {"header": {"id": 3}, "body": 2}, envelope(3)], "metadata": {"batch": True}}
    )
    shared_server.call("XADD", "s", "*", "data", data)
    shared_server.call("XADD", "s", "*", "data", batch_of_3())
    broker = make()
    one, bad, three, nothing = await broker.fetch(SUB, 10, 0.0)
    assert [None, True, None, True] == [each.defect and True for each in (one, bad, three, nothing)]
    await settle(broker, (one, ACK), (bad, DeadLetter("undecodable")), (three, ACK), (nothing, DeadLetter("empty")))

    letter, empty = await broker.dead("s", 10)
    assert b'{"header": {"id": 3}, "body": 2}' == letter.message.body
    assert letter.raw
    assert ("undecodable", "empty") == (letter.reason, empty.reason)
    assert 0 == await broker.requeue_dead("s", [letter.id])


async def test_the_dead_are_where_the_originals_look_and_can_be_read_from_there(make: Any, shared_server: Server):
    shared_server.call("XADD", "s", "*", "data", json.dumps({"pattern": "t", "data": envelope(1)}))
    broker = make()
    (one,) = await broker.fetch(SUB, 10, 0.0)
    await settle(broker, (one, DeadLetter("because")))

    ((_, fields),) = shared_server.call("XRANGE", "s-dlq", "-", "+")
    assert b"data" == next(iter(fields)), "release 2 looks at the first field only"
    assert {"pattern": "t", "data": envelope(1)} == {**json.loads(fields[b"data"]), "pattern": "t"}
    (again,) = await broker.fetch(Subscription(source="s-dlq", group="mourners"), 10, 0.0)
    assert (b"1", "svc.t") == (again.message.body, again.message.type)
    assert ["s"] == [name for name in await broker.sources() if not name.endswith("-dlq")]


async def test_dead_letters_of_the_originals_are_shown_and_put_back(make: Any, shared_server: Server):
    wrapped = json.dumps({"pattern": "t", "data": envelope(1)})
    shared_server.call("XADD", "s-dlq", "*", "data", json.dumps(["x", "y", "data", wrapped]))
    flattened = [
        "originalId",
        "1-0",
        "originalStream",
        "s",
        "error",
        "boom é",
        "timestamp",
        "5",
        "data",
        json.dumps(envelope(2)),
    ]
    shared_server.call("XADD", "s-dlq", "*", *flattened, "timestamp", "4", "topic", "s")
    shared_server.call("XADD", "s-dlq", "*", "data", json.dumps(["data", "{not json"]))
    broker = make()
    two, three, broken = await broker.dead("s", 10)
    assert (b"1", None) == (two.message.body, two.error)
    assert (b"2", "boom é") == (three.message.body, three.error)
    assert broken.raw

    assert 2 == await broker.requeue_dead("s", [two.id, three.id, broken.id])
    assert [b"1", b"2"] == bodies(await broker.fetch(SUB, 10, 0.0))
    assert 1 == shared_server.call("XLEN", "s-dlq")


async def test_a_broker_can_be_asked_to_speak_otherwise_and_stays_as_it_is(redis_url: str, shared_server: Server):
    plain = RedisStreamsBroker.from_url(redis_url, consumer="c-1")
    events = plain.speaking("events", dead_letters={"s": "graves"})
    shared_server.call("XADD", "s", "*", "data", json.dumps(envelope(1)))
    (one,) = await events.fetch(SUB, 10, 0.0)
    await settle(events, (one, DeadLetter("x")))

    assert ("c-1", 1) == (events.identity, shared_server.call("XLEN", "graves"))
    assert (False, True) == (events.capabilities.binary, plain.capabilities.binary)
    with pytest.raises(ConfigurationError, match="dialect is one of 'events'"):
        plain.speaking("esperanto")
    await events.close()
    await plain.close()


def test_in_a_cluster_dead_letters_must_be_on_the_node_of_their_stream():
    keys = EventsDialect({"s": "elsewhere", "{s}": "{s}-dead"}).keys(tagged=True)

    assert ("{t}-dlq", "{s}-dead") == (keys.dead("t"), keys.dead("{s}"))
    with pytest.raises(ConfigurationError, match="another node"):
        keys.dead("s")


async def test_the_command_line_and_the_inspector_see_events_by_a_url_of_their_own(
    redis_url: str, shared_server: Server
):
    shared_server.call(
        "XADD", "s-dlq", "*", "data", json.dumps(["data", json.dumps({"pattern": "t", "data": envelope(1)})])
    )
    broker = open_broker(f"events+{redis_url}")
    assert isinstance(broker, RedisStreamsBroker)
    (letter,) = await broker.dead("s", 10)
    assert "svc.t" == letter.message.type
    await broker.close()

    command = [
        sys.executable,
        "-m",
        "penstock",
        "dlq",
        "requeue",
        "s",
        "--all",
        "--broker",
        f"events+{redis_url}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (0, 1) == (done.returncode, shared_server.call("XLEN", "s")), done.stderr
