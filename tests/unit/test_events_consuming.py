"""Consumers of events, on memory, SQLite and Redis: the same on each."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import (
    Ack,
    Claim,
    ConfigurationError,
    Constant,
    DeadLetter,
    EventConsumer,
    EventHeader,
    EventPublisher,
    EventValidator,
    Inspector,
    Message,
    Producer,
    RetryPolicy,
    deduplicated,
    open_broker,
)
from penstock.broker import Broker, Outgoing
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import EncodeError, UnsupportedFeature
from penstock.stores.memory import MemoryStore
from tests.servers.redis_server import Server

STREAM = "user-events"
SOON = RetryPolicy(max_attempts=3, backoff=Constant(delay=0.01))


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker[Any]]:
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.flush()
        broker = open_broker(server.url)
    else:
        broker = open_broker("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/events.db")
    yield broker
    await broker.close()


def consumer_on(broker: Broker[Any], **terms: Any) -> EventConsumer:
    return EventConsumer(broker, **{"stream": STREAM, "group": "g", "retry": SOON, **terms})


async def publish(broker: Broker[Any], type_: str, *bodies: Any, **terms: Any) -> list[str]:
    async with EventPublisher(broker, **{"origin": "user-service", "stream": STREAM, **terms}) as publisher:
        return [await publisher.publish(type_, body) for body in bodies]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
            await asyncio.sleep(0.01)


async def dead_of(broker: Broker[Any], stream: str = STREAM) -> list[Any]:
    speaking: Any = broker.speaking("events") if isinstance(broker, RedisStreamsBroker) else broker
    await speaking.open()
    found = [letter async for letter in Inspector(speaking).each_dead(stream)]
    if speaking is not broker:
        await speaking.close()
    return found


@pytest.mark.parametrize("pattern", ["user.created", "user-service.user.created", "user.*", "*", re.compile("^user")])
async def test_a_handler_gets_body_and_header(broker: Broker[Any], pattern: Any):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()

    @consumer.on(pattern)
    async def created(body: Any, header: EventHeader) -> None:
        got.put_nowait((body, header))

    (ident,) = await publish(broker, "user.created", {"userId": "1"})
    async with consumer:
        body, header = await asyncio.wait_for(got.get(), 10)
    assert {"userId": "1"} == body
    assert (ident, "user-service.user.created", "user-service") == (header.id, header.type, header.origin)
    assert "757b916b404e8768f3a0e205865f7dc0d9c6baa464b3ad40fcc67bfef81d76c5" == header.hash
    assert ("1.0.0", 0, {}) == (header.version, header.attempt, header.extra)


async def test_an_event_is_found_by_its_own_type_whatever_the_namespace(broker: Broker[Any]):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()
    consumer.add_handler("user.created", got.put)
    await publish(broker, "user.created", 1, namespace="acme.eu")
    async with consumer:
        assert 1 == await asyncio.wait_for(got.get(), 10)


async def test_the_exact_type_goes_before_patterns_and_the_star_comes_last(broker: Broker[Any]):
    consumer, got = consumer_on(broker, concurrency=1), list[tuple[str, Any]]()
    for pattern in ("*", "user.*", re.compile(r"\.deleted$"), "user.created"):
        name = pattern if isinstance(pattern, str) else pattern.pattern

        async def note(body: Any, name: str = name) -> None:
            got.append((name, body))

        consumer.add_handler(pattern, note)
    for type_ in ("user.created", "user.deleted", "order.deleted", "ping"):
        await publish(broker, type_, type_)
    async with consumer:
        await until(lambda: len(got) == 4)
    expected = {
        ("user.created", "user.created"),
        ("user.*", "user.deleted"),
        (r"\.deleted$", "order.deleted"),
        ("*", "ping"),
    }
    assert expected == set(got)


async def test_a_body_is_of_the_type_that_the_handler_asks_for_and_what_is_not_is_dead(broker: Broker[Any]):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()

    class Created(msgspec.Struct):
        userId: str  # noqa: N815 - as on the wire

    async def created(event: Any) -> None:
        got.put_nowait(event)

    consumer.add_handler("user.created", created, Created)
    await publish(broker, "user.created", {"userId": 3}, {"userId": "1"})
    async with consumer:
        assert Created("1") == await asyncio.wait_for(got.get(), 10)
        await until(lambda: consumer.consumer.counters.dead == 1)
        status = await consumer.status()
    (letter,) = await dead_of(broker)
    assert ("invalid", 1, 1) == (letter.reason, status.poison_messages, status.error_count)


async def test_the_validator_of_a_consumer_judges_before_any_handler(broker: Broker[Any]):
    consumer = consumer_on(broker, validator=EventValidator({"user.created": {"type": "object", "required": ["a"]}}))
    got = asyncio.Queue[Any]()
    consumer.add_handler("*", got.put)
    await publish(broker, "user.created", {"b": 1}, {"a": 1})
    async with consumer:
        assert {"a": 1} == await asyncio.wait_for(got.get(), 10)
        await until(lambda: consumer.consumer.counters.dead == 1)
    (letter,) = await dead_of(broker)
    assert "Invalid event body for type user.created" in letter.error


async def test_plain_functions_run_in_a_thread(broker: Broker[Any]):
    consumer, got = consumer_on(broker), list[str]()

    @consumer.on("user.*")
    def created(body: Any, header: EventHeader) -> None:
        got.append(threading.current_thread().name)

    await publish(broker, "user.created", 1)
    async with consumer:
        await until(lambda: got)
    assert threading.main_thread().name not in got


async def test_what_fails_is_tried_again_and_is_dead_in_the_end(broker: Broker[Any]):
    consumer, attempts = consumer_on(broker), list[int]()

    @consumer.on("user.created")
    async def created(body: Any, header: EventHeader) -> None:
        attempts.append(header.attempt)
        raise ValueError("no")

    (ident,) = await publish(broker, "user.created", {"n": 1})
    async with consumer:
        await until(lambda: consumer.consumer.counters.dead == 1)
        status = await consumer.status()
    assert [0, 1, 2] == attempts
    (letter,) = await dead_of(broker)
    assert ("maxAttempts(3)", "ValueError: no", ident) == (letter.reason, letter.error, letter.message.headers["id"])
    counted = (status.retry_count, status.dead_letter_count, status.failed_messages, status.last_error)
    assert (2, 1, 3, "ValueError: no") == counted


async def test_attempts_and_delays_can_be_told_by_numbers(broker: Broker[Any]):
    consumer = EventConsumer(broker, stream=STREAM, group="g", retry_attempts=2, retry_delay=0.01, max_retry_delay=0.02)
    times = list[int]()

    @consumer.on("*")
    async def fail(body: Any, header: EventHeader) -> None:
        times.append(header.attempt)
        raise ValueError

    await publish(broker, "a", 1)
    async with consumer:
        await until(lambda: consumer.consumer.counters.dead == 1)
    assert [0, 1] == times


async def test_without_auto_ack_silence_is_no_acknowledgement(broker: Broker[Any]):
    consumer, seen = consumer_on(broker, auto_ack=False), list[tuple[Any, int]]()

    @consumer.on("*")
    async def decide(body: str, header: EventHeader) -> None:
        seen.append((body, header.attempt))
        match body:
            case "ack":
                header.ack()
            case "ack and fail":
                header.ack()
                raise ValueError("after the ack")
            case "retry" if not header.attempt:
                header.retry(0.01)
            case "retry":
                header.ack()
            case "dead":
                header.dead_letter("because", {"a": 1})

    for body in ("ack", "ack and fail", "retry", "dead", "silent"):
        await publish(broker, "user.x", body)
    async with consumer:
        await until(lambda: consumer.consumer.counters.dead == 2 and consumer.consumer.counters.acked == 3)
    times = {body: [attempt for name, attempt in seen if name == body] for body, _ in seen}
    assert {"ack": [0], "ack and fail": [0], "retry": [0, 1], "dead": [0], "silent": [0, 1, 2]} == times
    reasons = {letter.reason: letter.error for letter in await dead_of(broker)}
    assert reasons["because"] is None
    assert "header.ack()" in reasons["maxAttempts(3)"]


async def test_what_a_handler_returns_counts_too(broker: Broker[Any]):
    consumer = consumer_on(broker, auto_ack=False)

    @consumer.on("*")
    async def decide(body: str) -> Any:
        return Ack() if body == "ack" else DeadLetter("told")

    await publish(broker, "x", "ack", "dead")
    async with consumer:
        await until(lambda: consumer.consumer.counters.processed == 2)
    assert ["told"] == [letter.reason for letter in await dead_of(broker)]


async def test_events_that_nobody_handles_are_acked_and_counted_and_logged_once(
    broker: Broker[Any], caplog: pytest.LogCaptureFixture
):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()
    consumer.add_handler("user.created", got.put)
    await publish(broker, "user.deleted", 1, 2, 3)
    await publish(broker, "user.created", 4)
    async with consumer:
        assert 4 == await asyncio.wait_for(got.get(), 10)
        await until(lambda: consumer.consumer.counters.acked == 4)
        status = await consumer.status()
    assert (3, 0, 0) == (status.unhandled, status.pending_messages, status.dead_letter_count)
    told = [record.getMessage() for record in caplog.records if "no handler" in record.getMessage()]
    assert ["no handler for events of type user-service.user.deleted, which are acked; there are: user.created"] == told


async def test_each_group_gets_every_event_and_its_consumers_share_them(broker: Broker[Any]):
    if isinstance(broker, RedisStreamsBroker):
        groups = {name: [consumer_on(broker, group=name) for _ in range(2)] for name in ("g", "h")}
    else:  # a broker of this kind is one owner, and a worker's: consumers of one process share one worker
        groups = {name: [consumer_on(broker, group=name)] for name in ("g", "h")}
    got = {name: list[int]() for name in groups}
    for name, consumers in groups.items():
        for each in consumers:

            async def note(body: int, name: str = name) -> None:
                got[name].append(body)

            each.add_handler("*", note)
    if isinstance(broker, RedisStreamsBroker):
        for each in chain.from_iterable(groups.values()):
            await each.listen()
        await publish(broker, "user.x", *range(40))
        await until(lambda: all(len(bodies) == 40 for bodies in got.values()))
        for each in chain.from_iterable(groups.values()):
            await each.close()
    else:
        from penstock import Worker

        async with Worker(*(each.consumer for each in chain.from_iterable(groups.values()))):
            await publish(broker, "user.x", *range(40))
            await until(lambda: all(len(bodies) == 40 for bodies in got.values()))
    assert {"g": list(range(40)), "h": list(range(40))} == {name: sorted(bodies) for name, bodies in got.items()}


@pytest.mark.parametrize(("by", "expected"), [("id", 3), ("hash", 2)])
async def test_an_event_that_comes_twice_is_handled_once(broker: Broker[Any], by: Any, expected: int):
    consumer = consumer_on(broker, idempotency=deduplicated(MemoryStore(), by=by))
    got, other = list[Any](), broker.speaking("events") if isinstance(broker, RedisStreamsBroker) else broker

    async def note(body: Any) -> None:
        got.append(body)

    consumer.add_handler("*", note)
    async with EventPublisher(broker, origin="s", stream=STREAM) as publisher:
        twice = await publisher.prepare("user.created", {"a": 1})
        await publisher.send([twice, twice])
        await publisher.publish("user.created", {"a": 1})  # the same words, another event
        await publisher.publish("user.updated", {"a": 1})
    async with consumer:
        await until(lambda: consumer.consumer.counters.acked == 4)
    assert expected == len(got)
    if other is not broker:
        await other.close()


async def test_a_failed_event_is_not_taken_for_done(broker: Broker[Any]):
    consumer, times = consumer_on(broker, idempotency=MemoryStore()), list[int]()

    @consumer.on("*")
    async def fail_once(body: Any, header: EventHeader) -> None:
        times.append(header.attempt)
        if not header.attempt:
            raise ValueError

    await publish(broker, "x", 1)
    async with consumer:
        await until(lambda: consumer.consumer.counters.acked == 1)
    assert [0, 1] == times


async def test_no_more_than_max_pending_are_in_hand(broker: Broker[Any]):
    consumer, gate, running = consumer_on(broker, max_pending=3, concurrency=2), asyncio.Event(), list[int]()

    @consumer.on("*")
    async def wait(body: int) -> None:
        running.append(body)
        await gate.wait()

    await publish(broker, "x", *range(10))
    async with consumer:
        await until(lambda: len(running) == 2)
        await asyncio.sleep(0.1)  # it has time enough to fetch more, if it wanted to
        (machinery,) = consumer.consumer.running
        assert 3 >= len(machinery.ledger.held)
        gate.set()
        await until(lambda: len(running) == 10)


async def test_status_has_every_field_and_never_raises(broker: Broker[Any]):
    consumer, gate = consumer_on(broker, concurrency=1, max_pending=1), asyncio.Event()

    @consumer.on("user.*")
    async def wait(body: int) -> None:
        await gate.wait()

    before = await consumer.status()
    assert (True, None, 0) == (before.is_connected, before.last_processed_id, before.total_messages_received)
    async with consumer:
        await publish(broker, "user.x", 1, 2)
        await until(lambda: consumer.consumer.in_flight == 1)
        held = await consumer.status()
        assert (1, 1) == (held.pending_messages, held.lag)
        gate.set()
        await until(lambda: consumer.consumer.counters.acked == 2)
        status = await consumer.status()
    assert (0, 0, 2, {"user-service.user.x": 2}) == (
        *(status.pending_messages, status.lag, status.total_messages_received),
        status.by_type,
    )
    assert {STREAM: 2} == status.by_topic
    assert status.last_processed_id
    assert status.last_message_time
    assert status.average_processing_time > 0


async def test_a_message_that_is_no_event_reaches_the_star(broker: Broker[Any]):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()

    @consumer.on("*")
    async def note(body: Any, header: EventHeader) -> None:
        got.put_nowait((body, header.type, header.id, header.origin))

    speaking: Any = broker.speaking("events") if isinstance(broker, RedisStreamsBroker) else broker
    await speaking.open()
    await speaking.publish([Outgoing(destination=STREAM, message=Message(type="t", body=b"[1]"))])
    async with consumer:
        assert ([1], "t", "", "") == await asyncio.wait_for(got.get(), 10)
    await speaking.close()


async def test_handlers_may_come_and_go(broker: Broker[Any]):
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()
    async with consumer:
        consumer.add_handler("user.*", got.put)
        assert ("user.*",) == consumer.patterns
        await publish(broker, "user.x", 1)
        assert 1 == await asyncio.wait_for(got.get(), 10)
        assert consumer.remove_handler("user.*")
        assert not consumer.remove_handler("user.*")
        await publish(broker, "user.x", 2)
        await until(lambda: consumer.consumer.counters.acked == 2)
    assert got.empty()


@pytest.mark.parametrize("pattern", ["user.created", "*"])
async def test_two_handlers_for_the_same_are_refused(pattern: str):
    consumer = consumer_on(MemoryBroker())
    consumer.add_handler(pattern, ignore)
    with pytest.raises(ConfigurationError, match="already a handler"):
        consumer.add_handler(pattern, ignore)


async def ignore(body: Any) -> None: ...


def test_a_type_that_cannot_be_found_is_no_reason_to_take_anything():
    class Local(msgspec.Struct):
        a: int

    async def handle(body: Local) -> None: ...

    with pytest.raises(ConfigurationError, match="payload_type="):
        consumer_on(MemoryBroker()).add_handler("a", handle)
    consumer_on(MemoryBroker()).add_handler("a", handle, Local)


def test_a_place_for_dead_letters_is_refused_where_there_is_none_to_choose():
    consumer_on(MemoryBroker(), dead_letter_stream="user-events-dlq")
    with pytest.raises(UnsupportedFeature, match="leave dead_letter_stream out"):
        consumer_on(MemoryBroker(), dead_letter_stream="elsewhere")


@pytest.mark.parametrize(
    "terms", [{"retry_attempts": 0}, {"max_pending": 0}, {"block": 0}, {"retry_delay": -1}, {"batch_size": 0}]
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="got"):
        EventConsumer(MemoryBroker(), stream="s", group="g", **terms)


async def test_a_stop_gives_back_what_has_not_run(broker: Broker[Any]):
    first, gate, got = consumer_on(broker, concurrency=1), asyncio.Event(), list[int]()

    @first.on("*")
    async def wait(body: int) -> None:
        got.append(body)
        await gate.wait()

    await publish(broker, "x", *range(5))
    await first.listen()
    await until(lambda: got)
    closing = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    gate.set()
    assert await closing
    second = consumer_on(broker, claim=Claim(min_idle=1.0))

    async def note(body: int) -> None:
        got.append(body)

    second.add_handler("*", note)
    async with second:
        await until(lambda: len(got) == 5)
    assert [0, 1, 2, 3, 4] == sorted(got)


async def test_an_event_of_a_batch_is_found_by_its_plain_type_whatever_its_namespace(
    redis_url: str, shared_server: Server
):
    header = {"id": "i", "type": "acme.user.created", "origin": "svc", "timestamp": "", "hash": "", "version": "1.0.0"}
    message = {"eventType": "user.created", "body": 1, "envelope": {"header": header, "body": 1}}
    batch = {"header": {"type": "user-batch", "messageCount": 1, "batchId": "b"}, "body": {"messages": [message]}}
    broker = open_broker(redis_url)
    consumer, got = consumer_on(broker), asyncio.Queue[Any]()
    consumer.add_handler("user.created", got.put)

    async with consumer:
        shared_server.call("XADD", STREAM, "*", "data", json.dumps({"pattern": "user-batch", "data": batch}))
        assert 1 == await asyncio.wait_for(got.get(), 10)
    await broker.close()


async def test_a_validator_judges_an_event_that_nobody_handles_by_what_it_says(broker: Broker[Any]):
    judged: list[Any] = []
    consumer = consumer_on(broker, validator=EventValidator({"user.gone": judged.append}))

    async with consumer:
        await publish(broker, "user.gone", {"userId": "1"})
        await until(lambda: consumer.consumer.counters.acked + consumer.consumer.counters.dead)
        assert 1 == (await consumer.status()).unhandled
    assert [{"userId": "1"}] == judged


async def test_a_status_that_is_asked_for_while_it_starts_disturbs_nothing(redis_url: str):
    broker = open_broker(redis_url)
    consumer = consumer_on(broker)
    asking = True

    async def ask() -> None:
        while asking:
            assert (await consumer.status()).is_connected

    askers = [asyncio.create_task(ask()) for _ in range(3)]
    for _ in range(5):
        async with consumer:
            await asyncio.sleep(0.02)
            assert [] == consumer.worker.troubles
    asking = False
    await asyncio.gather(*askers)
    await broker.close()


@pytest.mark.parametrize("dead", ["", STREAM, 5])
async def test_dead_letters_do_not_go_where_they_come_from(broker: Broker[Any], dead: Any):
    with pytest.raises(ConfigurationError, match="names a stream other than"):
        consumer_on(broker, dead_letter_stream=dead)


async def test_a_message_that_is_no_event_brings_its_headers_along(redis_url: str):
    for url in ("memory://", f"events+{redis_url}"):
        broker = open_broker(url)
        consumer, got = consumer_on(broker), asyncio.Queue[Any]()

        async def note(_: Any, header: EventHeader, got: asyncio.Queue[Any] = got) -> None:
            got.put_nowait(dict(header.extra))

        consumer.add_handler("*", note)
        async with consumer:
            await Producer(broker, STREAM, str).send("x", type="user.created", headers={"tenant": "a"})
            assert {"tenant": "a"} == await asyncio.wait_for(got.get(), 10)
        await broker.close()


async def test_headers_that_are_only_half_of_an_events_are_refused(redis_url: str):
    broker = open_broker(f"events+{redis_url}")

    with pytest.raises(EncodeError, match=r"\['id', 'origin'\]"):
        await Producer(broker, STREAM, str).send("x", type="user.created", headers={"origin": "web", "id": "7"})
    await broker.close()


async def test_events_without_an_id_are_not_taken_for_one_another(broker: Broker[Any]):
    consumer, got = consumer_on(broker, idempotency=MemoryStore()), asyncio.Queue[Any]()
    consumer.add_handler("*", got.put)
    names = dict.fromkeys(("id", "origin", "timestamp", "hash", "version"), "")
    messages = [Message(type="a", body=b"%d" % n, headers={**names, "origin": "o"}) for n in (1, 2)]

    async with consumer:
        await consumer.consumer.broker.publish([Outgoing(destination=STREAM, message=each) for each in messages])
        assert {1, 2} == {await asyncio.wait_for(got.get(), 10), await asyncio.wait_for(got.get(), 10)}
