"""Ordering keys: one at a time, in order, retries included; and nobody else waits for it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import (
    Batch,
    Claim,
    Consumer,
    Context,
    DeadLetter,
    Options,
    Prefetch,
    Producer,
    Release,
    Retry,
    RetryPolicy,
    Send,
    Worker,
)
from penstock.broker import Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import ConfigurationError
from penstock.message import Delivery, Message
from penstock.ordering import OrderedLedger
from penstock.telemetry import Telemetry
from penstock.testing import VirtualClock, run_virtual

LOOK = Subscription(source="s", lease=5.0)


class House:
    """A memory broker and a worker with an ordered consumer on one virtual clock; a log of who began and ended."""

    def __init__(self, handler: Callable[..., Any], **terms: Any) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(MemorySystem(self.clock), identity="w")
        self.producer = Producer(self.broker, "s", dict, clock=self.clock)
        self.log: list[tuple[str, Any]] = []
        self._handler = handler
        terms = {"retry": RetryPolicy(max_attempts=3, backoff=4.0), "concurrency": 10, **terms}
        self.consumer = Consumer(self.broker, "s", dict, self._handle, ordered=True, **terms)
        self.worker = Worker(
            self.consumer, lease_thread=False, clock=self.clock, dice=random.Random(1), telemetry=Telemetry()
        )

    async def _handle(self, job: dict[str, Any], context: Context) -> Any:
        self.log.append(("began", job["n"]))
        try:
            return await self._handler(job, context)
        finally:
            self.log.append(("ended", job["n"]))

    @property
    def began(self) -> list[Any]:
        return [n for what, n in self.log if what == "began"]

    @property
    def ledger(self) -> OrderedLedger:
        (running,) = self.consumer.running
        assert isinstance(running.ledger, OrderedLedger)
        return running.ledger

    async def send(self, *jobs: tuple[str | None, int], **more: Any) -> None:
        await self.producer.send_many([Send({"n": n, **more}, key=key) for key, n in jobs])

    async def settled(self, count: int) -> None:
        counters = self.consumer.counters
        async with asyncio.timeout(3600):
            while counters.acked + counters.dead + counters.released < count:
                await asyncio.sleep(0.01)


def virtual(program: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(program())  # type: ignore[arg-type]

    run.__name__ = program.__name__
    return run


async def work(job: dict[str, Any], context: Context) -> None:
    await asyncio.sleep(1.0)


@virtual
async def test_messages_of_a_key_take_turns_and_others_run_beside_them() -> None:
    made = House(work)
    await made.send(("a", 1), ("a", 2), ("b", 10), (None, 20), (None, 21), ("a", 3), ("b", 11))
    async with made.worker:
        await asyncio.sleep(0.5)
        assert sorted(made.began) == [1, 10, 20, 21]
        await made.settled(7)
    assert [n for n in made.began if n < 10] == [1, 2, 3]
    assert [n for n in made.began if 10 <= n < 20] == [10, 11]
    assert made.log.index(("ended", 1)) < made.log.index(("began", 2))


@virtual
async def test_a_retry_keeps_its_turn_and_counts_its_attempts() -> None:
    attempts, times = list[int](), list[float]()

    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1:
            attempts.append(context.attempt)
            times.append(asyncio.get_running_loop().time())
            if context.attempt < 2:
                raise OSError("not yet")

    made = House(handle)
    await made.send(("a", 1), ("a", 2), ("b", 10))
    async with made.worker:
        await made.settled(1)
        assert made.began == [1, 10]  # nobody else waits
        await made.settled(3)
        assert (made.consumer.counters.retried, made.consumer.counters.acked) == (2, 3)
        assert made.ledger.aside == 0
    assert made.began == [1, 10, 1, 1, 2]
    assert attempts == [0, 1, 2]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == pytest.approx([4.0, 4.0])


@virtual
async def test_after_its_last_attempt_it_is_dead_and_the_next_one_has_its_turn() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1:
            raise OSError

    made = House(handle)
    await made.send(("a", 1), ("a", 2))
    async with made.worker:
        await made.settled(2)
        (letter,) = await made.broker.dead("s", 9)
    assert (letter.reason, letter.message.attempt) == ("maxAttempts(3)", 2)
    assert made.began == [1, 1, 1, 2]


@pytest.mark.parametrize("outcome", [Release(2.0), DeadLetter("told to")])
def test_what_is_handed_back_or_dead_gives_up_its_turn(outcome: Any) -> None:
    async def handle(job: dict[str, Any], context: Context) -> Any:
        return outcome if made.began.count(1) == 1 and job["n"] == 1 else None

    async def program() -> None:
        nonlocal made
        made = House(handle)
        await made.send(("a", 1), ("a", 2))
        async with made.worker:
            await made.settled(3 if isinstance(outcome, Release) else 2)

    made: House
    run_virtual(program())
    assert made.began == ([1, 2, 1] if isinstance(outcome, Release) else [1, 2])


@virtual
async def test_a_retry_that_does_not_count_keeps_its_turn_without_an_end() -> None:
    async def handle(job: dict[str, Any], context: Context) -> Retry | None:
        assert context.attempt == 0
        return Retry(1.0, counts=False) if job["n"] == 1 and made.began.count(1) < 9 else None

    made = House(handle)
    await made.send(("a", 1), ("a", 2))
    async with made.worker:
        await made.settled(2)
    assert made.began == [1] * 9 + [2]


@virtual
async def test_a_hot_key_does_not_keep_others_from_being_fetched() -> None:
    gate = asyncio.Event()

    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 0:
            await gate.wait()

    made = House(handle, concurrency=2)
    await made.send(*(("hot", n) for n in range(500)), *((f"k{n}", n) for n in range(1000, 1100)))
    async with made.worker:
        await made.settled(100)
        assert made.ledger.aside == 499
        gate.set()
        await made.settled(600)
        assert made.ledger.aside == 0
    assert [n for n in made.began if n < 1000] == list(range(500))


@virtual
async def test_what_waits_behind_keys_is_bounded_and_then_fetching_waits_for_it() -> None:
    gate = asyncio.Event()

    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 0:
            await gate.wait()

    made = House(handle, concurrency=2, options=Options(prefetch=Prefetch(most=20, wait=1.0)))
    await made.send(*(("hot", n) for n in range(500)), ("cool", 1000))
    async with made.worker:
        await asyncio.sleep(60)
        assert len(made.ledger.held) <= 20 + 2 + 1
        assert made.began == [0]
        gate.set()
        await made.settled(501)
    assert [n for n in made.began if n < 1000] == list(range(500))


@virtual
async def test_a_stop_gives_back_everything_with_its_attempts_and_the_rest_of_its_delay() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1:
            raise OSError

    made = House(handle, retry=RetryPolicy(max_attempts=9, backoff=lambda attempt: 1.0 if attempt < 2 else 60.0))
    await made.send(("a", 1), ("a", 2), ("a", 3))
    async with made.worker:
        await asyncio.sleep(12)
    assert made.began == [1, 1, 1]  # at 0, 1 and 2 s; the next one would be at 62 s
    counters = made.consumer.counters
    assert (counters.retried, counters.released) == (3, 2)
    again = MemoryBroker(made.broker._system, identity="other")
    found = await again.fetch(LOOK, 9, 0.0)
    assert sorted((d.message.body, d.attempt, d.count) for d in found) == [(b'{"n":2}', 0, 1), (b'{"n":3}', 0, 1)]
    await asyncio.sleep(49)
    assert await again.fetch(LOOK, 9, 0.0) == []
    await asyncio.sleep(2)
    (late,) = await again.fetch(LOOK, 9, 0.0)
    assert (late.message.body, late.attempt, late.count) == (b'{"n":1}', 3, 1)


@virtual
async def test_a_stop_that_interrupts_a_retry_in_place_does_not_forget_its_attempts() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        if context.attempt == 2:
            await asyncio.sleep(1000)
        raise OSError

    made = House(handle, retry=RetryPolicy(max_attempts=5, backoff=1.0))
    await made.send(("a", 1))
    await made.worker.start()
    await asyncio.sleep(5)
    assert not await made.worker.stop(0.0)
    again = MemoryBroker(made.broker._system, identity="other")
    (found,) = await again.fetch(LOOK, 9, 0.0)
    assert (found.attempt, found.count) == (2, 1)


@virtual
async def test_a_message_lost_while_it_waits_for_its_retry_gives_up_its_turn() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1:
            raise OSError

    made = House(handle, retry=RetryPolicy(max_attempts=9, backoff=60.0))
    await made.send(("a", 1), ("a", 2), ("a", 3))
    async with made.worker:
        await asyncio.sleep(5)
        assert made.began == [1]
        ledger = made.ledger
        for n in ("1", "2"):
            assert ledger.lose(ledger.held[n])
        await made.settled(1)
        assert made.began == [1, 3]
        assert (ledger.aside, ledger._owners, ledger._lanes, ledger._spent) == (0, {}, {}, {})


@virtual
async def test_while_a_lost_execution_runs_its_key_waits_for_it() -> None:
    gate = asyncio.Event()

    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1 and made.began.count(1) == 1:
            await gate.wait()
            assert context.lease_lost

    made = House(handle, claim=Claim(min_idle=5.0, interval=0.5))
    await made.send(("a", 1), ("a", 2), ("b", 10))
    async with made.worker:
        await made.settled(1)
        ledger = made.ledger
        first = ledger.held["1"]
        ledger.lose(first)
        await asyncio.sleep(10)  # its lease lapses, and it comes back to the same worker
        assert made.began == [1, 10]
        gate.set()
        await made.settled(3)
        assert (ledger.aside, ledger._owners, ledger._lanes, ledger._stale) == (0, {}, {}, set())
    assert made.began == [1, 10, 1, 2]


@virtual
async def test_lost_twice_while_its_execution_runs_it_still_holds_up_its_key() -> None:
    gate = asyncio.Event()

    async def handle(job: dict[str, Any], context: Context) -> None:
        if job["n"] == 1:
            await gate.wait()

    made = House(handle, claim=Claim(min_idle=5.0, interval=0.5))
    await made.send(("a", 1), ("a", 2))
    async with made.worker:
        await asyncio.sleep(1)
        ledger = made.ledger
        ledger.lose(ledger.held["1"])
        await asyncio.sleep(10)  # it is back, behind its own lost execution
        assert ledger.lose(ledger.held["1"])
        await asyncio.sleep(1)
        assert made.began == [1]
        gate.set()
        await made.settled(2)
    assert made.began[:2] == [1, 2]


@virtual
async def test_retries_that_are_due_together_run_together() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        if not context.attempt:
            raise OSError
        await asyncio.sleep(1.0)

    made = House(handle)
    await made.send(*((f"k{n}", n) for n in range(8)))
    async with made.worker:
        await asyncio.sleep(4.5)
        assert made.consumer.in_flight == 8
        await made.settled(8)


@virtual
async def test_a_message_that_comes_again_while_it_waits_for_its_retry_is_the_same_execution() -> None:
    async def handle(job: dict[str, Any], context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 2:
            raise OSError

    attempts = list[int]()
    made = House(handle, retry=RetryPolicy(max_attempts=9, backoff=20.0), claim=Claim(min_idle=5.0, interval=0.5))
    await made.send(("a", 1))
    async with made.worker:
        await asyncio.sleep(3)
        for group in made.broker._system.streams["s"].groups.values():
            for entry in group.leased.values():
                entry.deadline = 0.0  # the system believes that its owner is gone
        await made.settled(1)
        assert made.consumer.counters.acked == 1
    assert attempts == [0, 1, 2]


def test_order_and_batches_do_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="do not go together"):
        Consumer(MemoryBroker(), "s", dict, lambda jobs: None, ordered=True, batch=Batch())  # type: ignore[call-overload]


Plan = tuple[str | None, list[str]]


class Story:
    """Handlers that follow scripts, and what they did wrong."""

    def __init__(self, plans: list[Plan], dice: random.Random, slots: int) -> None:
        self.scripts = [list(script) for _, script in plans]
        self.inside, self.begun = defaultdict[str, int](int), defaultdict[str, list[int]](list)
        self.fouls = list[str]()
        self.dice = dice
        self.made = House(
            self.handle,
            concurrency=slots,
            retry=RetryPolicy(max_attempts=9, backoff=0.7),
            claim=Claim(min_idle=2.0, interval=0.25),
            options=Options(prefetch=Prefetch(most=dice.choice([3, 1000]), wait=1.0)),
        )

    async def handle(self, job: dict[str, Any], context: Context) -> Any:
        key, n = context.key or f"none-{job['n']}", job["n"]
        if self.inside[key] and context.key:
            self.fouls.append(f"{n} of {key} began beside another")
        self.inside[key] += 1
        if n not in self.begun[key]:
            self.begun[key].append(n)
        try:
            await asyncio.sleep(self.dice.choice([0.0, 0.1, 1.0]))
            return await self.act(self.scripts[n].pop(0) if self.scripts[n] else "ack", context)
        finally:
            self.inside[key] -= 1

    async def act(self, step: str, context: Context) -> Any:
        if step == "fail":
            raise OSError
        if step == "late":
            await asyncio.sleep(3.0)
        if step == "lose":
            ledger = self.made.ledger
            with suppress(KeyError):
                ledger.lose(ledger.held[context.id])
            await asyncio.sleep(0.2)
        return {"again": Retry(0.5, counts=False), "back": Release(0.3), "dead": DeadLetter("told to")}.get(step)


@settings(max_examples=200, deadline=None)
@given(
    plans=st.lists(
        st.tuples(
            st.sampled_from(["a", "a", "b", "c", None]),
            st.lists(st.sampled_from(["fail", "again", "back", "dead", "late", "lose"]), max_size=3),
        ),
        max_size=30,
    ),
    slots=st.integers(1, 4),
    stop_at=st.sampled_from([None, 0.5, 2.0, 5.0]),
    seed=st.integers(0, 2**32),
)
def test_turns_are_kept_whatever_happens(plans: list[Plan], slots: int, stop_at: float | None, seed: int) -> None:
    dice = random.Random(seed)

    async def program() -> Story:
        story = Story(plans, dice, slots)
        made = story.made
        await made.send(*((key, n) for n, (key, _) in enumerate(plans)))
        if stop_at is not None:
            await made.worker.start()
            await asyncio.sleep(stop_at)
            await made.worker.stop(dice.choice([0.0, 2.0]))
        async with made.worker, asyncio.timeout(3600):
            while (stats := await made.broker.stats("s")).size or stats.delayed:
                await asyncio.sleep(0.5)
            await asyncio.sleep(5)
            ledger = made.ledger
            assert (ledger.aside, ledger._owners, ledger._lanes, ledger._rests) == (0, {}, {}, {})
            assert (ledger._spent, ledger._stale, list(ledger.ready), ledger.held) == ({}, set(), [], {})
        return story

    story = run_virtual(program())
    assert story.fouls == []
    assert set(story.inside.values()) <= {0}
    if stop_at is None and not any("lose" in script for _, script in plans):
        assert all(numbers == sorted(numbers) for numbers in story.begun.values())


async def test_giving_back_leaves_no_suspect_of_a_key_to_begin_afterwards() -> None:
    ledger = OrderedLedger(5, VirtualClock())
    suspects = [
        Delivery(message=Message(id=str(n), type="t", body=b"", key="k"), source="s", group="g", receipt=n, count=3)
        for n in range(3)
    ]
    ledger.add(suspects)
    first = ledger.suspects.popleft()
    assert ledger.may_run(first)
    for each in (ledger.suspects.popleft(), ledger.suspects.popleft()):
        assert not ledger.may_run(each)
    ledger.finish(first, Release())  # its turn passes to the second, which waits for a slot
    ledger.give_back()
    assert ["0", "1", "2"] == [item.delivery.message.id for item in ledger.finished]
    assert (0, 0, 0) == (len(ledger.suspects), len(ledger.ready), ledger.aside)
