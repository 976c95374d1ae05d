"""Timeouts: exactly the handler that ran too long ends, and nobody else hears of it; expiry: what is too late is not run."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Consumer, Context, Options, Outcome, Producer, Retry, RetryPolicy, Worker
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.clock import Clock
from penstock.deadlines import TICK, Deadlines, Watch
from penstock.errors import ConfigurationError, EncodeError, HandlerTimeout, LostLease
from penstock.message import Message
from penstock.telemetry import Finished, Telemetry
from penstock.testing import VirtualClock, run_virtual

POLICY = RetryPolicy(max_attempts=2, backoff=1.0)
START = 0.5  # seconds: nothing here takes longer than that without being told to


class House:
    """A memory broker, a producer and a worker on one virtual clock."""

    def __init__(self, handler: Callable[..., Any], *, middleware: Any = (), options: Any = None, **terms: Any) -> None:
        self.clock: Clock = VirtualClock()
        self.broker = MemoryBroker(MemorySystem(self.clock), identity="w")
        self.producer = Producer(self.broker, "s", dict, clock=self.clock)
        self.events: list[Any] = []
        terms = {"retry": POLICY, "concurrency": 2, **terms}
        self.consumer = Consumer(self.broker, "s", dict, handler, middleware=middleware, options=options, **terms)
        self.worker = Worker(
            self.consumer,
            lease_thread=False,
            clock=self.clock,
            dice=random.Random(1),
            telemetry=Telemetry(self.events.append),
        )

    async def settled(self, count: int) -> None:
        counters = self.consumer.counters
        async with asyncio.timeout(3600):
            while counters.processed + counters.released < count:
                await asyncio.sleep(0.05)

    async def letters(self) -> list[tuple[str, str | None]]:
        return [(letter.reason, letter.error) for letter in await self.broker.dead("s", 100)]


@asynccontextmanager
async def house(handler: Callable[..., Any], **terms: Any):
    made = House(handler, **terms)
    async with made.worker:
        yield made


def virtual(program: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(program())  # type: ignore[arg-type]

    run.__name__ = program.__name__
    return run


@virtual
async def test_a_handler_that_runs_too_long_is_retried_and_then_dead_of_its_timeout() -> None:
    began, ended = list[float](), list[float]()

    async def slow(job: dict[str, Any]) -> None:
        began.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(asyncio.get_running_loop().time())

    async with house(slow, timeout=2.0) as made:
        await made.producer.send({})
        await made.settled(2)
        assert await made.letters() == [
            ("maxAttempts(2)", "HandlerTimeout: the handler ran for longer than 2 s"),
        ]
    assert [end - start for start, end in zip(began, ended, strict=True)] == pytest.approx([2.0, 2.0], abs=TICK)
    assert began[1] - ended[0] == pytest.approx(1.0, abs=0.05)


@virtual
async def test_the_smaller_of_the_consumers_and_the_messages_timeout_wins() -> None:
    took: dict[str, float] = {}

    async def slow(job: dict[str, Any], context: Context) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(100)
        finally:
            took[job["name"]] = round(asyncio.get_running_loop().time() - began, 1)

    async with house(slow, timeout=5.0, retry=RetryPolicy(max_attempts=1)) as made:
        await made.producer.send({"name": "own"})
        await made.producer.send({"name": "less"}, timeout=2.0)
        await made.producer.send({"name": "more"}, timeout=20)
        await made.settled(3)
    async with house(slow, retry=RetryPolicy(max_attempts=1)) as made:
        await made.producer.send({"name": "only"}, timeout=3)
        await made.settled(1)
    assert took == {"own": 5.0, "less": 2.0, "more": 5.0, "only": 3.0}


@pytest.mark.parametrize("strange", ["5", True, -1, 0, None, [1], 1e300, 10**400, float("nan")])
def test_a_timeout_in_a_strangers_header_that_is_none_says_nothing(strange: Any) -> None:
    async def program() -> None:
        async def handler(job: dict[str, Any]) -> None:
            await asyncio.sleep(1.0)

        async with house(handler, timeout=2.0) as made:
            message = Message(type="t", body=b"{}", headers={"timeout": strange, "expiresAt": "soon"})
            await made.broker.publish([Outgoing(destination="s", message=message)])
            await made.settled(1)
            assert made.consumer.counters.acked == 1

    run_virtual(program())


@virtual
async def test_a_handler_that_ends_in_time_hears_nothing() -> None:
    async def quick(job: dict[str, Any], context: Context) -> None:
        await asyncio.sleep(1.9)
        assert not context.timed_out
        context.check()

    async with house(quick, timeout=2.0) as made:
        for _ in range(20):
            await made.producer.send({})
        await made.settled(20)
        assert made.consumer.counters.acked == 20


@virtual
async def test_what_a_handler_does_at_its_timeout_is_its_own_affair() -> None:
    """Its clean-up may take time, its own exception is judged as such, and the context says why."""
    seen = list[bool]()

    async def careful(job: dict[str, Any], context: Context) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            seen.append(context.timed_out)
            with pytest.raises(HandlerTimeout):
                context.check()
            await asyncio.sleep(1.0)
            raise ValueError("undone") from None

    async with house(careful, timeout=2.0, retry=RetryPolicy(max_attempts=1)) as made:
        await made.producer.send({})
        await made.settled(1)
        assert await made.letters() == [("maxAttempts(1)", "ValueError: undone")]
    assert seen == [True]


def test_a_handler_that_ignores_its_cancellation_keeps_its_slot_and_its_result_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def program() -> None:
        async def stubborn(job: dict[str, Any]) -> None:
            end = asyncio.get_running_loop().time() + 20
            while (left := end - asyncio.get_running_loop().time()) > 0:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(left)

        async with house(stubborn, timeout=2.0, concurrency=1) as made:
            await made.producer.send({})
            await asyncio.sleep(10)
            assert made.consumer.in_flight == 1
            await made.settled(1)
            assert made.consumer.counters.acked == 1
            await made.producer.send({})  # and the slot is as good as new
            await made.settled(2)
            assert made.consumer.counters.acked == 2

    run_virtual(program())
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    once = [
        "still running 5 s after its timeout of 2 s: it ignores its cancellation, and keeps its slot",
        "finished 18.0 s after its timeout of 2 s; what it came to counts",
    ]
    assert texts == once * 2


@virtual
async def test_a_cancellation_that_the_handler_raises_itself_is_no_timeout() -> None:
    async def strange(job: dict[str, Any]) -> None:
        raise asyncio.CancelledError("mine")

    async with house(strange, timeout=2.0, retry=RetryPolicy(max_attempts=1)) as made:
        await made.producer.send({})
        await made.settled(1)
        assert await made.letters() == [("maxAttempts(1)", "CancelledError: mine")]


@pytest.mark.parametrize("drain", [0.5, 2.0 - START, 2.0])
def test_a_stop_that_cancels_is_a_release_and_no_timeout(drain: float) -> None:
    """Also when both come at the same moment."""

    async def program() -> None:
        async def slow(job: dict[str, Any]) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1.0)

        async with house(slow, timeout=2.0, concurrency=1) as made:
            await made.producer.send({})
            await asyncio.sleep(START)
            await made.worker.stop(drain)
            assert made.consumer.counters.released + made.consumer.counters.retried == 1
            if drain == 0.5:
                assert made.consumer.counters.released == 1

    run_virtual(program())


@virtual
async def test_middleware_sees_the_timeout_as_an_exception_and_its_own_time_is_not_counted() -> None:
    seen = list[str]()

    async def patient(envelope: Any, call_next: Any) -> Outcome:
        await asyncio.sleep(10)
        try:
            outcome: Outcome = await call_next(envelope)
        except TimeoutError as error:
            seen.append(type(error).__name__)
            await asyncio.sleep(10)
            return Retry(1.0)
        return outcome

    async def handler(job: dict[str, Any]) -> None:
        await asyncio.sleep(job["seconds"])

    async with house(handler, timeout=2.0, middleware=[patient]) as made:
        await made.producer.send({"seconds": 1.0})
        await made.producer.send({"seconds": 3.0})
        await made.settled(3)
        assert (made.consumer.counters.acked, made.consumer.counters.dead) == (1, 1)
    assert seen == ["HandlerTimeout"] * 2


async def test_a_thread_goes_on_after_its_timeout_and_may_look(caplog: pytest.LogCaptureFixture) -> None:
    begun, go, told = threading.Event(), threading.Event(), list[bool]()

    def blocking(job: dict[str, Any], context: Context) -> None:
        begun.set()
        assert go.wait(10)
        told.append(context.timed_out)
        if job["cooperative"]:
            context.check()

    broker = MemoryBroker()
    consumer = Consumer(broker, "s", dict, blocking, timeout=0.05, retry=RetryPolicy(max_attempts=1))
    async with Worker(consumer), asyncio.timeout(20):
        for cooperative in (False, True):
            await Producer(broker, "s", dict).send({"cooperative": cooperative})
            while not begun.is_set():
                await asyncio.sleep(0.001)
            while sum("a thread cannot be interrupted" in text for text in caplog.messages) <= cooperative:
                await asyncio.sleep(0.001)
            assert consumer.in_flight == 1
            go.set()
            while consumer.counters.processed < 1 + cooperative:
                await asyncio.sleep(0.001)
            begun.clear()
            go.clear()
        (letter,) = await broker.dead("s", 10)
    assert told == [True, True]
    assert (consumer.counters.acked, letter.error) == (
        1,
        "HandlerTimeout: The handler ran for longer than its timeout.",
    )
    assert sum("timeout" in text for text in caplog.messages if "dead letter" not in text) == 2


def test_a_check_tells_of_a_lost_lease() -> None:
    terms: dict[str, Any] = dict.fromkeys(("id", "type", "stream", "group", "worker"), "")
    context = Context(**terms, attempt=0, max_attempts=1, key=None, headers={}, enqueued_at=None)
    context.check()
    context.lease_lost = True
    with pytest.raises(LostLease, match="another worker"):
        context.check()


def test_a_timeout_must_be_a_number_of_seconds() -> None:
    for wrong in (0, -1, "5", True):
        with pytest.raises(ConfigurationError, match="timeout, in seconds, is a number and more than 0"):
            Consumer(MemoryBroker(), "s", dict, lambda job: None, timeout=wrong)


Job = tuple[float, str]


async def work(seconds: float, manner: str, timeout: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    match manner:
        case "steps":
            while loop.time() < end:
                await asyncio.sleep(min(0.25, max(0.0, end - loop.time())))
        case "child":
            await asyncio.create_task(asyncio.sleep(seconds))
        case "inner":
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await asyncio.sleep(seconds)
        case "spin":
            await asyncio.sleep(seconds)
            for _ in range(20):
                await asyncio.sleep(0)
        case _:
            await asyncio.sleep(seconds)


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 1.0 + TICK / 2, 1.0 + TICK, 1.5, 3.0]),
            st.sampled_from(["sleep", "steps", "swallow", "child", "convert", "inner", "spin"]),
        ),
        min_size=1,
        max_size=25,
    ),
    slots=st.integers(1, 4),
)
def test_no_cancellation_hits_anybody_but_the_handler_that_is_late(jobs: list[Job], slots: int) -> None:
    """Jobs that end at, just before and just after their timeout, in every manner, one after another on few slots."""
    timeout, hits, done = 1.0, list[tuple[int, float]](), list[int]()

    async def handler(job: dict[str, Any]) -> None:
        seconds, manner = jobs[job["n"]]
        began = asyncio.get_running_loop().time()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        try:
            await work(seconds, manner, timeout)
        except asyncio.CancelledError:
            hits.append((job["n"], asyncio.get_running_loop().time() - began))
            if manner == "swallow":
                await asyncio.sleep(0.1)
                done.append(job["n"])
                return
            if manner == "convert":
                raise OSError from None
            raise
        done.append(job["n"])

    async def program() -> None:
        async with house(handler, timeout=timeout, concurrency=slots, retry=RetryPolicy(max_attempts=1)) as made:
            await made.producer.send_many([{"n": n} for n in range(len(jobs))])
            await made.settled(len(jobs))
            assert made.consumer.counters.acked == len(done)
            reasons = {error and error.partition(":")[0] for _, error in await made.letters()}
            assert reasons <= {"HandlerTimeout", "OSError"}
            (running,) = made.consumer.running
            assert [task.cancelling() for task in running.slots._tasks] == [0] * slots

    run_virtual(program())
    assert sorted({*done, *(n for n, _ in hits)}) == list(range(len(jobs)))
    assert all(timeout - 1e-9 <= after <= timeout + 2 * TICK for _, after in hits)
    assert {n for n, (seconds, manner) in enumerate(jobs) if seconds < timeout} <= set(done) - {n for n, _ in hits}
    assert {n for n, (seconds, manner) in enumerate(jobs) if seconds >= 1.5 and manner != "inner"} <= {
        n for n, _ in hits
    }


@virtual
async def test_handlers_that_end_in_time_leave_the_timer_alone() -> None:
    deadlines, task = Deadlines(VirtualClock()), asyncio.current_task()
    with Watch(deadlines, 60.0, (), task):
        timer = deadlines._timer
    for _ in range(1000):
        with Watch(deadlines, 60.0, (), task):
            assert deadlines._timer is timer
    assert not deadlines.running
    await asyncio.sleep(61)
    assert deadlines._timer is None


# -------------------------------------------------------------------------------------------------------------- expiry


@pytest.mark.parametrize("expired", ["dead_letter", "discard", "run"])
def test_what_has_expired_before_it_begins_is_not_run(expired: Any) -> None:
    async def program() -> None:
        ran = list[str]()

        async def handler(job: dict[str, Any]) -> None:
            ran.append(job["name"])

        made = House(handler, options=Options(expired=expired))
        await made.producer.send({"name": "late"}, expires=10)
        await made.producer.send({"name": "in time"}, expires=30)
        await made.producer.send({"name": "no hurry"})
        await asyncio.sleep(10)
        async with made.worker:
            await made.settled(3)
            letters = await made.broker.dead("s", 10)
        outcomes = sorted((event.outcome, event.reason) for event in made.events if isinstance(event, Finished))
        counters = made.consumer.counters
        fate = {"dead_letter": ("dead", "expired"), "discard": ("discard", "expired"), "run": ("ack", "")}[expired]
        assert outcomes == sorted([("ack", ""), ("ack", ""), fate])
        assert ran == [*(["late"] if expired == "run" else []), "in time", "no hurry"]
        assert [letter.reason for letter in letters] == (["expired"] if expired == "dead_letter" else [])
        assert (counters.acked, counters.discarded) == (2 + (not letters), int(expired == "discard"))

    run_virtual(program())


@virtual
async def test_a_retry_that_comes_too_late_has_expired_too() -> None:
    ran = list[int]()

    async def handler(job: dict[str, Any], context: Context) -> None:
        ran.append(context.attempt)
        raise OSError

    async with house(handler, retry=RetryPolicy(max_attempts=9, backoff=4.0)) as made:
        await made.producer.send({}, expires=10)
        await made.settled(4)
        assert await made.letters() == [("expired", None)]
    assert ran == [0, 1, 2]


@virtual
async def test_an_expiry_counts_from_the_sending_a_delay_included() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(MemorySystem(clock))
    sent = round(clock.time() * 1000)
    await Producer(broker, "s", dict, clock=clock).send({}, delay=20, expires=30)
    await asyncio.sleep(21)
    found = await broker.fetch(Subscription(source="s"), 9, 0.0)
    assert [delivery.message.headers for delivery in found] == [{"expiresAt": sent + 30_000}]


@virtual
async def test_a_producer_may_have_an_expiry_for_all_its_messages() -> None:
    broker = MemoryBroker(MemorySystem(VirtualClock()))
    clock = VirtualClock()
    producer = Producer(broker, "s", dict, expires=60, clock=clock)
    await producer.send({})
    await producer.send({}, expires=5, headers={"mine": 1})
    await producer.send_many([{}])
    now = round(clock.time() * 1000)
    assert [message.headers for message in await broker.peek("s", 9)] == [
        {"expiresAt": now + 60_000},
        {"mine": 1, "expiresAt": now + 5_000},
        {"expiresAt": now + 60_000},
    ]


@virtual
async def test_terms_that_make_no_sense_are_refused_when_sending() -> None:
    producer = Producer(MemoryBroker(), "s", dict)
    wrong: list[dict[str, Any]] = [{"timeout": 0}, {"timeout": "5"}, {"expires": -1}, {"expires": float("inf")}]
    for terms in wrong:
        with pytest.raises(ConfigurationError, match="seconds"):
            await producer.send({}, **terms)
    with pytest.raises(ConfigurationError, match="before its delay of 60 s is over"):
        await producer.send({}, expires=30, delay=60)
    with pytest.raises(EncodeError, match="penstock's own"):
        await producer.send({}, headers={"timeout": 3})
    with pytest.raises(ConfigurationError, match="expired is one of"):
        Options(expired="ignore")  # type: ignore[arg-type]
