"""Publishers of events: patterns, routes, validators, batches. On memory: what is on the wire is in ``test_events_wire``."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pydantic
import pytest

from penstock import (
    BatchedEventPublisher,
    BrokerError,
    ConfigurationError,
    ConnectionFailed,
    ConsoleBroker,
    EventBatch,
    EventPublisher,
    EventValidator,
    PublishError,
    Route,
    ValidationError,
    Validity,
    open_broker,
)
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.errors import EncodeError, UnsupportedFeature
from penstock.pattern import matcher
from penstock.testing.clock import ManualClock


class Recording(MemoryBroker):
    """Remembers batches; refuses what ``refuse`` says; waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Any]] = []
        self.refuse: Any = lambda _: None
        self.gate: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            self.batches.append([msgspec.json.decode(each.message.body) for each in messages])
            results = [self.refuse(each) or f"id{number}" for number, each in enumerate(messages)]
            if all(isinstance(each, Exception) for each in results):
                raise results[0]
            if any(isinstance(each, Exception) for each in results):
                raise PublishError(results)
            return results
        finally:
            self.at_once -= 1


@pytest.fixture
def broker() -> Recording:
    return Recording()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def batched(broker: Any, clock: ManualClock, **terms: Any) -> BatchedEventPublisher:
    return BatchedEventPublisher(broker, origin="svc", batch=EventBatch(**terms), clock=clock)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "type_", "expected"),
    [
        *(("user.*", "user.created", True), ("user.*", "user.a.b", True), ("user.*", "user", False)),
        *(("user.*", "superuser.x", False), ("user.*", "User.x", False), ("*", "anything.at.all", True)),
        *(
            ("*.created", "user.created", True),
            ("*.created", "eu.user.created", False),
            ("*.created", "created", False),
        ),
        *(("user.*.updated", "user.profile.updated", True), ("user.*.updated", "user.a.b.updated", False)),
        *(("user.created", "user.created", True), ("user.created", "userxcreated", False)),
        *((re.compile(r"^user\.otp_"), "user.otp_sent", True), (re.compile("created$"), "x.created", True)),
    ],
)
def test_a_pattern_is_matched_by_segments(pattern: Any, type_: str, expected: bool):
    assert expected is matcher(pattern)(type_)


@pytest.mark.parametrize("pattern", ["", ".x", "x.", "a..b", "us*", "user.**", 3, None])
def test_what_is_no_pattern_is_refused(pattern: Any):
    with pytest.raises(ConfigurationError, match="got"):
        matcher(pattern)


# --------------------------------------------------------------------------------------------------------------- routes


async def sent_by(routes: list[Route], type_: str, **terms: Any) -> tuple[str, str]:
    """The transport that took an event, and its pattern."""
    brokers = {"redis": Recording(), "console": Recording()}
    publisher = EventPublisher(brokers, origin="s", routes=routes, default="console", **terms)
    seen: list[tuple[str, str]] = []
    for name, broker in brokers.items():
        broker.refuse = lambda item, name=name: seen.append((name, item.message.headers["pattern"]))
    await publisher.publish(type_, 1)
    return seen[0]


async def test_an_event_goes_by_the_first_route_that_matches():
    routes = [Route("user.*", "redis", prefix="u:"), Route("*", "console")]

    assert ("redis", "u:user.created") == await sent_by(routes, "user.created")
    assert ("console", "order.created") == await sent_by(routes, "order.created")


async def test_a_route_of_higher_priority_is_looked_at_first():
    routes = [Route("user.*", "console", "low:", "low"), Route("user.*", "redis"), Route("*", "redis", "p:", "high")]

    assert ("redis", "p:user.created") == await sent_by(routes, "user.created")
    assert ("redis", "user.created") == await sent_by(routes[:2], "user.created")


async def test_what_no_route_matches_goes_by_the_default():
    assert ("console", "ping") == await sent_by([Route("user.*", "redis")], "ping")


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"routes": [Route("a.*", "kafka")], "default": "redis"}, "no transport is named 'kafka'"),
        ({"default": "kafka"}, "no transport is named 'kafka'"),
        ({}, "several transports"),
        ({"default": "redis", "origin": ""}, "origin must be given"),
    ],
)
def test_a_route_that_leads_nowhere_is_found_when_the_publisher_is_made(terms: dict[str, Any], problem: str):
    with pytest.raises(ConfigurationError, match=problem):
        EventPublisher({"redis": Recording(), "console": ConsoleBroker()}, **{"origin": "s", **terms})


@pytest.mark.parametrize("type_", ["", "user.*", ".x", "a..b"])
async def test_what_is_no_type_is_refused(broker: Recording, type_: str):
    with pytest.raises(ConfigurationError):
        await EventPublisher(broker, origin="s").publish(type_, 1)


async def test_the_console_shows_events_and_gives_none():
    out = io.StringIO()
    console = ConsoleBroker(out)
    await EventPublisher(console, origin="s").publish("debug.x", {"a": "ü"})

    assert 'debug-events s.debug.x {"a":"ü"}\n' == out.getvalue()
    with pytest.raises(UnsupportedFeature, match="only shows"):
        await console.fetch(Subscription(source="debug-events"), 1, 0.0)
    assert isinstance(open_broker("console://"), ConsoleBroker)


async def test_headers_that_are_the_envelopes_own_are_refused(broker: Recording):
    publisher = EventPublisher(broker, origin="s")
    with pytest.raises(EncodeError, match="hash"):
        await publisher.publish("a", 1, headers={"hash": "x"})
    assert [] == broker.batches


async def test_a_publisher_counts_what_it_does(broker: Recording):
    publisher = EventPublisher({"r": broker}, origin="s")
    await publisher.publish_many("user.created", [1, 2])
    await publisher.publish("ping", 3)
    broker.refuse = lambda _: ConnectionFailed("gone")
    with pytest.raises(ConnectionFailed):
        await publisher.publish("ping", 4)

    stats = publisher.stats()
    assert (3, {"user.created": 2, "ping": 1}, {"r": 3}) == (
        stats.total_messages_sent,
        stats.by_type,
        stats.by_transport,
    )
    assert (1, "gone", 1) == (stats.failed_messages, stats.last_error, stats.total_batches_sent)
    assert stats.last_error_time is not None


# ----------------------------------------------------------------------------------------------------------- validators


class Created(msgspec.Struct):
    userId: str  # noqa: N815 - as on the wire


class Model(pydantic.BaseModel):
    name: str


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}


def with_a_name(body: Any) -> str | None:
    return None if body.get("name") else "a name is missing"


async def slowly(body: Any) -> Validity:
    await asyncio.sleep(0)
    return Validity(body["ok"], "not ok")


@pytest.mark.parametrize(
    ("schema", "good", "bad", "error"),
    [
        (Created, {"userId": "1"}, {"userId": 1}, "userId"),
        (Created, Created("1"), Created(1), "userId"),  # type: ignore[arg-type]
        (Model, {"name": "x"}, {}, "name"),
        (Model, Model(name="x"), {"name": 3}, "name"),
        (SCHEMA, {"n": 2}, {"n": 0}, "minimum"),
        (with_a_name, {"name": "x"}, {}, "a name is missing"),
        (slowly, {"ok": True}, {"ok": False}, "not ok"),
    ],
)
async def test_a_body_is_held_against_the_schema_of_its_type(
    broker: Recording, schema: Any, good: Any, bad: Any, error: str
):
    publisher = EventPublisher(broker, origin="s", validator=EventValidator({"user.created": schema}))

    await publisher.publish("user.created", good)
    with pytest.raises(ValidationError, match=rf"Invalid event body for type user.created: .*{error}"):
        await publisher.publish("user.created", bad)
    assert 1 == len(broker.batches)


async def test_a_type_without_a_schema_is_let_through_unless_the_validator_is_strict(broker: Recording):
    await EventPublisher(broker, origin="s", validator=EventValidator({})).publish("x", 1)
    with pytest.raises(ValidationError, match="No schema registered for event type: x"):
        await EventPublisher(broker, origin="s", validator=EventValidator({}, strict=True)).publish("x", 1)


@pytest.mark.parametrize(
    "answer", [{"valid": False, "error": "because"}, "because", Validity(valid=False, error="because")]
)
async def test_a_validator_of_ones_own_may_answer_in_several_ways(broker: Recording, answer: Any):
    class Own:
        async def validate(self, event_type: str, body: Any) -> Any:
            return answer if body else {"valid": True}

    publisher = EventPublisher(broker, origin="s", validator=Own())
    await publisher.publish("x", 0)
    with pytest.raises(ValidationError, match="because"):
        await publisher.publish("x", 1)


async def test_schemas_can_be_added_later(broker: Recording):
    publisher = EventPublisher(broker, origin="s")
    publisher.register_schema("x", int)
    with pytest.raises(ValidationError):
        await publisher.publish("x", "text")


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("group_by", "keys"),
    [
        ("exact", ["user.profile.updated", "user.created", "ping"]),
        (0, ["user", "user", "ping"]),
        ("0", ["user", "user", "ping"]),
        (1, ["user.profile", "user.created", "ping"]),
        ("1", ["user.profile", "user.created", "ping"]),
        (5, ["user.profile.updated", "user.created", "ping"]),
    ],
)
def test_events_wait_with_those_of_the_same_beginning(group_by: Any, keys: list[str]):
    batch = EventBatch(group_by=group_by)

    assert keys == [batch.key(type_) for type_ in ("user.profile.updated", "user.created", "ping")]


@pytest.mark.parametrize(
    "terms", [{"group_by": "all"}, {"group_by": -1}, {"max_size": 0}, {"max_wait": 0}, {"max_concurrent": 0}]
)
def test_a_batch_that_makes_no_sense_is_refused(terms: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="got"):
        EventBatch(**terms)


async def test_events_wait_until_there_are_enough_of_them(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_size=3)
    for n in range(7):
        await publisher.add("a", n)

    assert [[0, 1, 2], [3, 4, 5]] == broker.batches
    stats = publisher.memory_stats()
    assert (1, 1, 0, 0) == (stats.queue_count, stats.total_messages, stats.failed_message_count, stats.active_batches)
    await publisher.close()
    assert [6] == broker.batches[-1]


async def test_events_leave_when_the_oldest_has_waited_for_long_enough(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_wait=1.0)
    await publisher.add("a", 1)
    await turns()  # its timer runs from now on
    await clock.advance(0.6)
    await publisher.add("a", 2)
    assert [] == broker.batches
    await clock.advance(0.5)
    await turns()

    assert [[1, 2]] == broker.batches
    await publisher.close()


async def test_flush_sends_every_queue(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock)
    for type_ in ("a", "b", "a"):
        await publisher.add(type_, type_)
    await publisher.flush()

    assert [["a", "a"], ["b"]] == sorted(broker.batches)
    assert 0 == publisher.memory_stats().queue_count
    await publisher.publish_many("a", [])
    assert 2 == len(broker.batches)


async def test_what_is_refused_is_told_for_each_event_and_nothing_else_is(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock)
    broker.refuse = lambda item: BrokerError("too large") if item.message.body == b"2" else None
    ids = [await publisher.add("a", n) for n in (1, 2, 3)]
    with pytest.raises(PublishError) as told:
        await publisher.flush()

    assert ["str", "BrokerError", "str"] == [type(each).__name__ for each in told.value.results]
    (failed,) = publisher.failed_messages()
    assert (ids[1], "a", 2, "too large") == (failed.id, failed.event_type, failed.body, str(failed.error))
    broker.refuse = lambda _: None
    assert 1 == await publisher.retry_failed_messages()
    assert [] == publisher.failed_messages()


async def test_failed_events_are_kept_up_to_a_thousand_the_newest_of_them(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_size=500)
    broker.refuse = lambda _: BrokerError("no")
    for n in range(1500):
        await publisher.add("a", n)

    failed = publisher.failed_messages()
    assert (1000, 500, 1499) == (len(failed), failed[0].body, failed[-1].body)
    assert 500 == publisher.memory_stats().dropped_failures
    await clock.advance(100)
    assert 0 == publisher.cleanup_old_failed_messages(200)
    assert 1000 == publisher.cleanup_old_failed_messages(50)
    publisher.clear_failed_messages()
    await publisher.close()


async def test_everybody_waits_while_too_much_is_unsent(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_size=2, max_queued=3)
    broker.gate = asyncio.Event()
    adding = [asyncio.create_task(publisher.add("a", n)) for n in range(6)]
    await turns()
    assert 3 == publisher.memory_stats().total_messages
    broker.gate.set()
    await asyncio.gather(*adding)
    await publisher.flush()

    assert [0, 1, 2, 3, 4, 5] == sorted(n for batch in broker.batches for n in batch)
    await publisher.close()


async def test_whoever_was_to_wait_and_finds_it_closed_is_told(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock)
    await publisher.close()
    await publisher.close()
    with pytest.raises(BrokerError, match="closed"):
        await publisher.add("a", 1)


async def test_one_queue_keeps_its_order_though_several_batches_are_under_way(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_size=2, max_concurrent=3)
    await asyncio.gather(*(publisher.add("a", n) for n in range(10)))

    assert [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]] == broker.batches


async def test_a_caller_that_is_cancelled_takes_no_event_with_it(broker: Recording, clock: ManualClock):
    publisher = batched(broker, clock, max_size=2)
    broker.gate = asyncio.Event()
    await publisher.add("a", 1)
    filling = asyncio.create_task(publisher.add("a", 2))
    await turns()
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    broker.gate.set()
    await publisher.close()

    assert ([[1, 2]], []) == (broker.batches, publisher.failed_messages())


async def test_publishing_many_tells_what_failed_though_a_full_batch_took_it_along(
    broker: Recording, clock: ManualClock
):
    publisher = batched(broker, clock, max_size=2)
    broker.refuse = lambda each: BrokerError("no") if each.message.body == b"1" else None

    with pytest.raises(PublishError) as caught:
        await publisher.publish_many("user.created", [1, 2, 3])

    assert [BrokerError, str, str] == [type(fate) for fate in caught.value.results]
    assert [1] == [failed.body for failed in publisher.failed_messages()]


async def test_a_close_that_is_cancelled_goes_on_and_the_next_waits_for_it(broker: Recording, clock: ManualClock):
    publisher, broker.gate = batched(broker, clock), asyncio.Event()
    await publisher.add("user.created", 1)
    closing = asyncio.create_task(publisher.close())
    await turns()
    closing.cancel()
    again = asyncio.create_task(publisher.close())
    await turns()

    assert not again.done()
    broker.gate.set()
    await again
    assert [[1]] == broker.batches
    assert 0 == publisher.memory_stats().total_messages


async def test_a_closed_publisher_sends_nothing_again_since_nobody_would_disconnect(
    broker: Recording, clock: ManualClock
):
    publisher = batched(broker, clock)
    broker.refuse = lambda _: BrokerError("no")
    await publisher.add("user.created", 1)
    await publisher.close()
    single = EventPublisher(broker, origin="user-service")
    prepared = await single.prepare("user.created", 1)
    await single.close()

    with pytest.raises(BrokerError, match="closed"):
        await publisher.retry_failed_messages()
    with pytest.raises(BrokerError, match="closed"):
        await single.send([prepared])
    assert 1 == len(publisher.failed_messages())


async def test_a_failed_event_with_half_a_character_can_be_looked_at(broker: Recording, clock: ManualClock):
    validator = EventValidator({"user.created": {"type": "object"}})
    publisher = BatchedEventPublisher(broker, origin="svc", validator=validator, clock=clock)
    broker.refuse = lambda _: BrokerError("no")
    await publisher.add("user.created", {"name": "\ud800"})
    await publisher.close()

    assert [{"name": "\ud800"}] == [failed.body for failed in publisher.failed_messages()]


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"validator": 5}, "a validator is an EventValidator"),
        ({"namespace": 5}, "namespace is a text"),
        ({"stream": ""}, "stream= must name a stream"),
        ({"stream": 5}, "stream= must name a stream"),
    ],
)
def test_terms_of_a_publisher_are_checked_where_they_are_given(broker: Recording, terms: Any, error: str):
    with pytest.raises(ConfigurationError, match=error):
        EventPublisher(broker, **{"origin": "user-service", **terms})


def test_a_schema_is_for_one_type_since_one_for_a_pattern_would_judge_nothing():
    with pytest.raises(ConfigurationError, match="is a pattern"):
        EventValidator({"user.*": dict})


def test_an_expression_of_bytes_is_no_pattern():
    with pytest.raises(ConfigurationError, match="expression of bytes"):
        matcher(re.compile(b"user"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("type_", "terms", "error"),
    [
        ("user.created", {"key": 5}, "the key of an event is a text, got 5"),
        ("user.created", {"headers": ["tenant"]}, "headers are a mapping"),
        (["user.created"], {}, "a pattern of types is a text"),
    ],
)
async def test_what_cannot_be_said_of_an_event_is_refused(broker: Recording, type_: Any, terms: Any, error: str):
    with pytest.raises((EncodeError, ConfigurationError), match=error):
        await EventPublisher(broker, origin="user-service").publish(type_, 1, **terms)
    assert [] == broker.batches
