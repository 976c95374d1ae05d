"""Bad input: each a clear error or a dead letter that says why, and the good neighbours all run."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from penstock import (
    Ack,
    Constant,
    Context,
    DeadLetter,
    Limits,
    Message,
    Options,
    Release,
    Retry,
    RetryPolicy,
)
from penstock.errors import EncodeError, PayloadTooLarge, ValidationError
from tests.end_to_end.stage import Stage
from tests.servers.redis_server import Server

MEGABYTE = 1024 * 1024


class Order(msgspec.Struct):
    number: int
    note: str = ""


class Ran:
    """A handler that remembers what it ran."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def __call__(self, order: Order) -> None:
        self.numbers.append(order.number)


def good(number: int) -> Message:
    return message(b'{"number":%d}' % number)


def message(body: bytes, type: str = "order") -> Message:
    return Message(type=type, body=body, enqueued_at=time.time())


DEEP = b"[" * 10_000 + b"]" * 10_000

BAD_BODIES = {
    "no bytes at all": (b"", "undecodable"),
    "bytes that are no text": (b"\xff\x00\xfe", "undecodable"),
    "half an object": (b'{"number":', "undecodable"),
    "another type": (b"[1,2,3]", "invalid"),
    "a field of another type": (b'{"number":"one"}', "invalid"),
    "a missing field": (b'{"note":"x"}', "invalid"),
    "too deep where an object should be": (DEEP, "invalid"),
    "too deep in a field that nobody knows": (b'{"more":' + DEEP + b',"number":"x"}', "invalid undecodable"),
    "a number too large for anybody": (b'{"number":1' + b"0" * 5000 + b"}", "invalid undecodable"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_a_body_that_does_not_fit_is_a_dead_letter_and_its_neighbours_run(stage: Stage, what: str) -> None:
    body, reason = BAD_BODIES[what]
    ran = Ran()
    await stage.put(good(1), message(body), good(2))
    await stage.work(stage.consumer(Order, ran))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert letter.reason in reason.split()
    assert letter.message.body == body
    assert letter.error
    assert ran.numbers == [1, 2]


async def test_nesting_without_end_is_a_dead_letter_where_any_json_is_welcome_too(stage: Stage) -> None:
    ran: list[Any] = []

    async def handler(payload: dict[str, Any]) -> None:
        ran.append(payload["number"])

    await stage.put(good(1), message(b'{"deep":' + DEEP + b"}"), good(2))
    await stage.work(stage.consumer(dict, handler))
    await stage.until_empty()
    assert await stage.reasons() == ["undecodable"]
    assert ran == [1, 2]


async def test_a_body_larger_than_the_consumer_takes_is_a_dead_letter_and_never_decoded(stage: Stage) -> None:
    ran = Ran()
    large = message(b'{"number":3,"note":"' + b"x" * (10 * MEGABYTE) + b'"}')
    await stage.put(good(1), large, good(2))
    await stage.work(stage.consumer(Order, ran))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert letter.reason == "tooLarge"
    assert letter.message.body == large.body
    assert ran.numbers == [1, 2]


async def test_a_payload_too_large_or_of_the_wrong_type_is_refused_before_anything_is_sent(stage: Stage) -> None:
    producer = stage.producer(Order)
    with pytest.raises(PayloadTooLarge, match="max_body"):
        await producer.send(Order(1, "x" * (10 * MEGABYTE)))
    with pytest.raises(PayloadTooLarge):
        await producer.send_many([Order(1), Order(2, "x" * (10 * MEGABYTE))])
    with pytest.raises((EncodeError, ValidationError)):
        await producer.send({"number": object()})
    stats = await stage.stats()
    assert (stats.size, stats.delayed) == (0, 0)


async def test_an_unknown_type_is_a_dead_letter_once_its_grace_is_over(stage: Stage) -> None:
    ran = Ran()
    old = Message(type="novel", body=b"{}", enqueued_at=time.time() - 61.0)
    await stage.put(good(1), old, good(2))
    await stage.work(stage.consumer(Order, ran, types="order"))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert letter.reason == "unknownType"
    assert "order" in (letter.error or "")
    assert ran.numbers == [1, 2]


async def test_an_unknown_type_waits_for_a_worker_that_knows_it_and_spends_no_attempt(stage: Stage) -> None:
    ran, attempts = Ran(), list[int]()

    async def newer(payload: dict[str, Any], context: Context) -> None:
        attempts.append(context.attempt)

    await stage.put(good(1), message(b"{}", "novel"), good(2))
    older = await stage.work(stage.consumer(Order, ran, types="order"))
    await stage.until(lambda: len(ran.numbers) == 2 and older.consumers[0].counters.released == 1)
    await older.stop()
    await stage.work(stage.consumer(dict, newer, types="novel"))
    await stage.until(lambda: bool(attempts))
    await stage.until_empty()
    assert attempts == [0]
    assert await stage.dead() == []


async def test_a_short_grace_ends_in_a_dead_letter_after_one_release(stage: Stage) -> None:
    limits = Limits(unknown_type_grace=0.5)
    await stage.put(message(b"{}", "novel"))
    worker = await stage.work(stage.consumer(Order, Ran(), types="order", options=Options(limits=limits)))
    await stage.until_empty()
    assert await stage.reasons() == ["unknownType"]
    assert worker.consumers[0].counters.released == 1


NONSENSE: dict[str, Any] = {
    "a number": 42,
    "a true": True,
    "a text": "ack",
    "an error": ValueError("returned, not raised"),
    "the class of an outcome": Ack,
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_a_handler_that_returns_nonsense_makes_a_dead_letter_that_lists_what_is_legal(
    stage: Stage, what: str
) -> None:
    ran: list[int] = []

    async def handler(order: Order) -> Any:
        ran.append(order.number)
        return NONSENSE[what] if order.number == 2 else None

    await stage.put(good(1), good(2), good(3))
    await stage.work(stage.consumer(Order, handler))
    await stage.until_empty()
    (letter,) = await stage.dead()
    assert letter.reason == "wrongReturn"
    assert "Retry(" in (letter.error or "")
    assert ran == [1, 2, 3]


class Panic(BaseException):
    """As bindings to other languages raise it: no Exception."""


class Mute(Exception):
    def __str__(self) -> str:
        raise AttributeError("nothing to say")


class Mumble:
    def __repr__(self) -> str:
        raise AttributeError("nothing to say")


def _broken_backoff(attempt: int) -> float:
    raise ZeroDivisionError(attempt)


BAD_HANDLERS: dict[str, Callable[[], Any]] = {
    "a base exception": lambda: (_ for _ in ()).throw(Panic("the library panicked")),
    "the exit of the program": lambda: sys.exit(3),
    "a cancellation of its own": lambda: (_ for _ in ()).throw(asyncio.CancelledError),
    "an end of iteration": functools.partial(next, iter(())),
    "an error that cannot say what it is": lambda: (_ for _ in ()).throw(Mute),
    "a wish to retry with a text for an error": lambda: Retry(0.01, "because"),  # type: ignore[arg-type]
    "a dead letter with a text for an error": lambda: DeadLetter("why", "because"),  # type: ignore[arg-type]
    "a dead letter with an error for a reason": lambda: DeadLetter(ValueError("why")),  # type: ignore[arg-type]
    "a dead letter with a reason that cannot say what it is": lambda: DeadLetter(Mumble()),  # type: ignore[arg-type]
    "a dead letter with half a character in its reason": lambda: DeadLetter("half \ud800"),
    "a dead letter with a meta that cannot say what it is": lambda: DeadLetter("why", meta=Mumble()),
    "a dead letter with a meta that is no value": lambda: DeadLetter("why", meta=object()),
    "a wish to retry that is no number": lambda: Retry(delay="soon"),  # type: ignore[arg-type]
    "a wish to retry never": lambda: Retry(delay=float("nan")),
    "a wish to retry before": lambda: Retry(delay=-5.0),
    "a wish to retry at the end of time": lambda: Retry(delay=float("inf")),
    "a wish to retry in more seconds than there are numbers": lambda: Retry(delay=10**400),
    "a wish to retry with a backoff that fails": Retry,
    "a release in more seconds than there are numbers": lambda: Release(delay=10**400),
}


async def test_a_decorated_handler_runs_whatever_the_decorator_is_made_of(stage: Stage) -> None:
    ran: list[int] = []

    async def inner(order: Order) -> None:
        ran.append(order.number)

    def plain_around_async(order: Order) -> Any:
        return inner(order)

    @functools.wraps(plain_around_async)
    async def async_around_plain(order: Order) -> None:
        await plain_around_async(order)

    async def with_more(prefix: int, order: Order) -> None:
        ran.append(prefix + order.number)

    await stage.put(*(message(b'{"number":%d}' % n, name) for n, name in enumerate("abc")))
    consumer = stage.consumer(Order, plain_around_async, types="a")
    consumer.handle(async_around_plain, Order, types="b")
    consumer.handle(functools.partial(with_more, 100), Order, types="c")
    await stage.work(consumer)
    await stage.until_empty()
    assert sorted(ran) == [0, 1, 102]
    assert await stage.dead() == []


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("what", BAD_HANDLERS)
async def test_whatever_a_handler_does_the_job_comes_to_an_end_and_its_slot_goes_on(
    stage: Stage, what: str, threaded: bool
) -> None:
    ran: list[int] = []

    def handle(order: Order) -> Any:
        ran.append(order.number)
        return BAD_HANDLERS[what]() if order.number == 1 and ran.count(1) == 1 else None

    async def handle_async(order: Order) -> Any:
        return handle(order)

    backoff = _broken_backoff if "backoff" in what else Constant(delay=0.01)
    policy = RetryPolicy(max_attempts=2, backoff=backoff)
    await stage.put(good(1), good(2), good(3))
    consumer = stage.consumer(Order, handle if threaded else handle_async, concurrency=1, retry=policy)
    worker = await stage.work(consumer)
    await stage.until(lambda: {2, 3} <= set(ran))
    await stage.until_empty()
    assert ran.count(1) == 2 or len(await stage.dead()) == 1
    assert await worker.stop(5.0)


async def test_an_entry_that_is_no_message_is_a_dead_letter_with_all_its_fields(shared_server: Server) -> None:
    stage, ran = Stage(shared_server.url), Ran()
    with redis.Redis.from_url(shared_server.url) as client:
        client.xadd(stage.stream, {"headers": '{"type":"order","attempt":0}', "payload": '{"number":1}'})
        client.xadd(stage.stream, {"headers": "{no json", "payload": b"\xff\x00"})
        client.xadd(stage.stream, {"nothing": "we know"})
        client.xadd(stage.stream, {"headers": "[" * 10_000, "payload": "{}"})
        client.xadd(stage.stream, {"headers": '{"type":7}', "payload": "{}"})
        client.xadd(stage.stream, {"headers": '{"type":"order","attempt":-1}', "payload": "{}"})
        client.xadd(stage.stream, {"headers": '{"type":"order","attempt":0}', "payload": '{"number":2}'})
    try:
        await stage.work(stage.consumer(Order, ran))
        await stage.until_empty()
        letters = await stage.dead()
        assert [letter.reason for letter in letters] == ["undecodable"] * 5
        assert all(letter.raw for letter in letters)
        assert ran.numbers == [1, 2]
    finally:
        await stage.close()
