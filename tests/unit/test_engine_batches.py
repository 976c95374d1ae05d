"""Batch handlers: how much they get and when, an outcome for each item, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from penstock import (
    Ack,
    Batch,
    Claim,
    Consumer,
    Context,
    DeadLetter,
    Options,
    Producer,
    Release,
    Retry,
    RetryPolicy,
    Worker,
    current,
)
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import ConfigurationError
from penstock.message import Message
from penstock.outcome import Outcome
from penstock.telemetry import Finished, Started, Telemetry
from penstock.testing import VirtualClock, run_virtual

NOW = Batch(size=5, wait=0.0)


class Item(msgspec.Struct):
    n: int


class House:
    """A memory broker and a worker with a batch consumer on one virtual clock."""

    def __init__(self, handler: Callable[..., Any], batch: Batch = NOW, **terms: Any) -> None:
        clock = VirtualClock()
        self.broker = MemoryBroker(MemorySystem(clock), identity="w")
        self.producer = Producer(self.broker, "s", Item, clock=clock)
        self.events: list[Any] = []
        terms = {"retry": RetryPolicy(max_attempts=3, backoff=1.0), "concurrency": 1, **terms}
        self.consumer = Consumer(self.broker, "s", Item, handler, batch=batch, **terms)
        self.worker = Worker(
            self.consumer,
            lease_thread=False,
            clock=clock,
            dice=random.Random(1),
            telemetry=Telemetry(self.events.append),
        )

    async def send(self, *numbers: int, **terms: Any) -> None:
        for n in numbers:
            await self.producer.send(Item(n), **terms)

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(3600):
            while self.consumer.counters.processed < count:
                await asyncio.sleep(0.01)

    async def letters(self) -> list[tuple[bytes, str]]:
        return [(letter.message.body, letter.reason) for letter in await self.broker.dead("s", 100)]


def virtual(program: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(program())  # type: ignore[arg-type]

    run.__name__ = program.__name__
    return run


@virtual
async def test_a_batch_has_at_most_its_size_and_what_waits_goes_at_once() -> None:
    batches = list[list[int]]()

    async def handle(items: list[Item]) -> None:
        batches.append([item.n for item in items])

    made = House(handle)
    await made.send(*range(12))
    async with made.worker:
        await made.settled(12)
    assert batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


@virtual
async def test_the_first_message_of_a_batch_waits_for_others_and_no_longer_than_it_should() -> None:
    batches = list[tuple[float, list[int]]]()

    async def handle(items: list[Item]) -> None:
        batches.append((asyncio.get_running_loop().time(), [item.n for item in items]))

    made = House(handle, Batch(size=3, wait=2.0))
    async with made.worker:
        await asyncio.sleep(10)
        await made.send(1)
        await asyncio.sleep(1.5)
        await made.send(2)
        await made.settled(2)
        await asyncio.sleep(10 - asyncio.get_running_loop().time() % 10)
        await made.send(3, 4, 5)  # enough: nobody waits
        await made.settled(5)
        await asyncio.sleep(30 - asyncio.get_running_loop().time())
        for n in (6, 7, 8):  # enough with the last of them
            await made.send(n)
            await asyncio.sleep(0.5)
        await made.settled(8)
    assert batches == [
        (pytest.approx(12.0), [1, 2]),
        (pytest.approx(20.0), [3, 4, 5]),
        (pytest.approx(31.0), [6, 7, 8]),
    ]


@virtual
async def test_each_batch_takes_a_slot_and_the_slots_are_filled() -> None:
    sizes, inside, most = list[int](), 0, 0

    async def handle(items: list[Item]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        sizes.append(len(items))
        await asyncio.sleep(5)
        inside -= 1

    made = House(handle, Batch(size=50, wait=0.5), concurrency=3)
    await made.send(*range(600))
    async with made.worker:
        await asyncio.sleep(3)
        assert made.consumer.in_flight == 3
        (running,) = made.consumer.running
        assert len(running.ledger.held) == 300  # the next batches are here already
        await made.settled(600)
    assert most == 3
    assert sizes == [50] * 12


@virtual
async def test_each_item_has_its_own_outcome() -> None:
    calls = list[list[tuple[int, int]]]()

    async def handle(items: list[Item], contexts: list[Context]) -> list[Any]:
        calls.append([(item.n, context.attempt) for item, context in zip(items, contexts, strict=True)])
        if contexts[0].attempt:
            return [None for _ in items]
        return [None, Ack(), Retry(5.0), DeadLetter("told to"), OSError("mine")][: len(items)]

    made = House(handle)
    await made.send(*range(5))
    async with made.worker:
        await made.settled(7)
        assert await made.letters() == [(b'{"n":3}', "told to")]
    assert calls == [[(n, 0) for n in range(5)], [(4, 1)], [(2, 1)]]
    assert (made.consumer.counters.acked, made.consumer.counters.retried) == (4, 2)


@virtual
async def test_what_is_raised_counts_for_every_item_by_its_own_attempt() -> None:
    calls = list[list[tuple[int, int]]]()

    async def handle(items: list[Item], contexts: list[Context]) -> None:
        calls.append([(item.n, context.attempt) for item, context in zip(items, contexts, strict=True)])
        raise OSError("all of it")

    made = House(handle, Batch(size=5, wait=0.5), retry=RetryPolicy(max_attempts=2, backoff=1.0))
    async with made.worker:
        await made.send(1)
        await asyncio.sleep(1.4)  # its retry is about to be due
        await made.send(2)
        await made.settled(4)
        assert await made.letters() == [(b'{"n":1}', "maxAttempts(2)"), (b'{"n":2}', "maxAttempts(2)")]
    assert calls[0] == [(1, 0)]
    assert {pair for call in calls for pair in call} == {(1, 0), (1, 1), (2, 0), (2, 1)}


@pytest.mark.parametrize("wrong", [[None], [None] * 3, "ab", Ack(), 7, {}])
def test_a_wrong_return_value_is_one_for_every_item(wrong: Any) -> None:
    async def handle(items: list[Item]) -> Any:
        return wrong

    async def program() -> None:
        made = House(handle)
        await made.send(1, 2)
        async with made.worker:
            await made.settled(2)
            letters = await made.broker.dead("s", 9)
        assert [letter.reason for letter in letters] == ["wrongReturn"] * 2
        assert "for each of its 2 items" in (letters[0].error or "")

    run_virtual(program())


@virtual
async def test_a_wrong_item_is_wrong_by_itself() -> None:
    async def handle(items: list[Item]) -> list[Any]:
        return [None, "what?"]

    made = House(handle)
    await made.send(1, 2)
    async with made.worker:
        await made.settled(2)
        assert await made.letters() == [(b'{"n":2}', "wrongReturn")]


@virtual
async def test_what_must_not_reach_a_handler_is_not_in_the_batch_and_does_not_wait_for_it() -> None:
    batches = list[list[int]]()

    async def handle(items: list[Item]) -> None:
        batches.append([item.n for item in items])
        await asyncio.sleep(60)

    made = House(handle, options=Options())
    await made.send(1)
    await made.send(2, expires=0.5)
    bad = Message(type="msg", body=b"{")
    await made.broker.publish([Outgoing(destination="s", message=bad)])
    await made.send(3)
    await asyncio.sleep(1)
    async with made.worker:
        await made.settled(2)
        assert await made.letters() == [(b'{"n":2}', "expired"), (b"{", "undecodable")]
        assert batches == [[1, 3]]
        await made.settled(4)


@virtual
async def test_handlers_of_several_types_each_get_their_own() -> None:
    calls = list[tuple[str, list[int]]]()

    async def handle(items: list[Item]) -> None:
        calls.append(("msg", [item.n for item in items]))

    async def other(items: list[dict[str, int]]) -> None:
        calls.append(("other", [item["n"] for item in items]))

    made = House(handle)
    made.consumer.handle(other, dict, types="other")
    await made.send(1)
    await made.send(2, type="other")
    await made.send(3)
    async with made.worker:
        await made.settled(3)
    assert calls == [("msg", [1, 3]), ("other", [2])]


@virtual
async def test_a_timeout_is_the_batchs_and_the_shortest_of_its_items() -> None:
    async def handle(items: list[Item], contexts: list[Context]) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            assert [context.timed_out for context in contexts] == [True, True]

    made = House(handle, timeout=10.0, retry=RetryPolicy(max_attempts=1))
    await made.send(1)
    await made.send(2, timeout=3)
    async with made.worker:
        await made.settled(2)
        errors = {letter.error for letter in await made.broker.dead("s", 9)}
    assert errors == {"HandlerTimeout: the handler ran for longer than 3 s"}


@virtual
async def test_what_outlived_an_owner_makes_a_batch_by_itself() -> None:
    batches = list[list[tuple[int, int]]]()

    async def handle(items: list[Item], contexts: list[Context]) -> None:
        batches.append([(item.n, context.attempt) for item, context in zip(items, contexts, strict=True)])

    made = House(handle, claim=Claim(min_idle=2.0, interval=0.5))
    await made.send(1, 2, 3)
    dead = MemoryBroker(made.broker._system, identity="dead")
    assert len(await dead.fetch(Subscription(source="s", lease=2.0), 3, 0.0)) == 3
    await made.send(4, 5)
    async with made.worker:
        await made.settled(5)
    assert batches == [[(4, 0), (5, 0)], [(1, 1)], [(2, 1)], [(3, 1)]]


@virtual
async def test_suspects_run_one_at_a_time_beside_batches_and_with_nobody_in_theirs() -> None:
    batches, suspects, most = list[list[int]](), 0, 0

    async def handle(items: list[Item], contexts: list[Context]) -> None:
        nonlocal suspects, most
        batches.append([item.n for item in items])
        suspects += contexts[0].attempt
        most = max(most, suspects)
        await asyncio.sleep(5)
        suspects -= contexts[0].attempt

    made = House(handle, Batch(size=5, wait=0.1), concurrency=3, claim=Claim(min_idle=2.0, interval=0.5))
    await made.send(1, 2)
    dead = MemoryBroker(made.broker._system, identity="dead")
    assert len(await dead.fetch(Subscription(source="s", lease=2.0), 2, 0.0)) == 2
    async with made.worker:
        await made.send(3, 4)
        await asyncio.sleep(1)
        await made.send(5, 6, 7, 8, 9, 10)
        await asyncio.sleep(1.4)  # all slots are taken when the dead one's lease lapses
        await made.send(11, 12)
        await made.settled(12)
    assert most == 1
    assert [each for each in batches if {1, 2} & {*each}] == [[1], [2]]


@virtual
async def test_what_is_lost_while_the_handler_of_another_type_runs_is_not_begun() -> None:
    gate, calls = asyncio.Event(), list[list[int]]()

    async def handle(items: list[Item]) -> None:
        await gate.wait()

    async def other(items: list[dict[str, int]]) -> None:
        calls.append([item["n"] for item in items])

    made = House(handle)
    made.consumer.handle(other, dict, types="other")
    await made.send(1)
    await made.send(2, 3, type="other")
    async with made.worker:
        await asyncio.sleep(1)
        (running,) = made.consumer.running
        (lost,) = [each for each in running.ledger.held.values() if each.message.body == b'{"n":2}']
        running.ledger.lose(lost)
        gate.set()
        await made.settled(2)
    assert calls == [[3]]


@virtual
async def test_an_item_that_comes_again_is_not_settled_by_the_execution_that_lost_it() -> None:
    gates, calls = [asyncio.Event(), asyncio.Event()], list[list[int]]()

    async def handle(items: list[Item]) -> list[Outcome]:
        calls.append([item.n for item in items])
        await gates[len(calls) - 1].wait()
        return [DeadLetter("first") if len(items) > 1 else Ack() for _ in items]

    made = House(handle, concurrency=2)
    await made.send(1, 2)
    async with made.worker:
        await asyncio.sleep(1)
        (running,) = made.consumer.running
        again = next(each for each in running.ledger.held.values() if each.message.body == b'{"n":2}')
        running.ledger.lose(again)
        running.accept([again])
        await asyncio.sleep(1)
        gates[0].set()
        await made.settled(1)
        gates[1].set()
        await made.settled(2)
        assert await made.letters() == [(b'{"n":1}', "first")]
    assert calls == [[1, 2], [2]]
    assert made.consumer.counters.acked == 1


@virtual
async def test_a_stop_releases_at_once_what_waits_for_the_handler_of_another_type() -> None:
    async def handle(items: list[Item]) -> None:
        await asyncio.sleep(60)

    async def other(items: list[dict[str, int]]) -> None: ...

    made = House(handle)
    made.consumer.handle(other, dict, types="other")
    await made.send(1)
    await made.send(2, 3, type="other")
    await made.worker.start()
    await asyncio.sleep(1)
    assert not await made.worker.stop(0.0)
    assert made.consumer.counters.released == 3


@virtual
async def test_an_item_whose_lease_is_lost_does_not_count_and_its_neighbours_do() -> None:
    gate, contexts = asyncio.Event(), list[Context]()

    async def handle(items: list[Item], given: list[Context]) -> None:
        contexts[:] = given
        await gate.wait()

    made = House(handle)
    await made.send(1, 2, 3)
    async with made.worker:
        while not contexts:
            await asyncio.sleep(0.01)
        (running,) = made.consumer.running
        running.ledger.lose(running.ledger.held[contexts[1].id])
        gate.set()
        await made.settled(2)
        assert [context.lease_lost for context in contexts] == [False, True, False]
        assert made.consumer.counters.acked == 2


@pytest.mark.parametrize("drain", [0.0, 30.0])
def test_a_stop_gives_back_what_has_not_begun_and_releases_what_it_interrupts(drain: float) -> None:
    began = list[list[int]]()

    async def handle(items: list[Item]) -> None:
        began.append([item.n for item in items])
        await asyncio.sleep(10)

    async def program() -> None:
        made = House(handle, Batch(size=2, wait=5.0))
        await made.send(1, 2, 3)
        await made.worker.start()
        await asyncio.sleep(1)
        assert await made.worker.stop(drain) == bool(drain)
        left = await made.broker.fetch(Subscription(source="s"), 9, 0.0)
        assert {delivery.count for delivery in left} == {1}
        assert sorted(delivery.message.body for delivery in left) == [
            b'{"n":%d}' % n for n in ((3,) if drain else (1, 2, 3))
        ]

    run_virtual(program())
    assert began == [[1, 2]]


async def test_a_plain_function_gets_its_batch_in_a_thread() -> None:
    def handle(items: list[Item], contexts: list[Context]) -> Sequence[Outcome | Exception | None]:
        return [ValueError("odd") if item.n % 2 else None for item in items]

    broker = MemoryBroker()
    consumer = Consumer(broker, "s", Item, handle, batch=Batch(size=4), retry=RetryPolicy(max_attempts=1))
    await Producer(broker, "s", Item).send_many([Item(n) for n in range(10)])
    async with Worker(consumer), asyncio.timeout(20):
        while consumer.counters.processed < 10:
            await asyncio.sleep(0.001)
    assert (consumer.counters.acked, consumer.counters.dead) == (5, 5)


@virtual
async def test_telemetry_hears_of_every_item_and_only_a_batch_of_one_has_a_current_job() -> None:
    jobs = list[Context | None]()

    async def handle(items: list[Item]) -> list[Outcome]:
        jobs.append(current())
        return [Release(60.0) for _ in items]

    made = House(handle)
    async with made.worker:
        await made.send(1)
        await asyncio.sleep(1)
        await made.producer.send_many([Item(2), Item(3)])
        await asyncio.sleep(1)
    assert [job and job.type for job in jobs] == ["msg", None]
    kinds = [type(event) for event in made.events]
    assert (kinds.count(Started), kinds.count(Finished)) == (3, 3)


def test_a_batch_is_checked_where_it_is_given() -> None:
    async def handle(items: list[Item]) -> None: ...

    async def middleware(envelope: Any, call_next: Any) -> Any: ...

    broker = MemoryBroker()
    with pytest.raises(ConfigurationError, match="size, the messages of one batch, is a whole number"):
        Batch(size=0)
    with pytest.raises(ConfigurationError, match="wait, in seconds"):
        Batch(wait=-1)
    with pytest.raises(ConfigurationError, match=r"batch is a Batch, got 100; write Batch\(size=100\)"):
        Consumer(broker, "s", Item, handle, batch=100)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="do it in the handler, or leave batch out"):
        Consumer(broker, "s", Item, handle, batch=Batch(), middleware=[middleware])  # type: ignore[call-overload]
