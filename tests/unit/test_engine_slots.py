"""The slots: never more at once than there are, never fewer than there is work for, suspects alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock.codecs.json import JsonCodec
from penstock.context import Context, current
from penstock.executor import Executor
from penstock.ledger import Ledger
from penstock.message import Delivery, Message
from penstock.outcome import ACK, DeadLetter, Outcome, Release
from penstock.registry import Registry
from penstock.retry import RetryPolicy
from penstock.slots import Slots
from penstock.telemetry import Finished, Started, Telemetry
from penstock.testing.clock import ManualClock

CONCURRENCY = 4


def delivery(number: int, count: int = 1) -> Delivery[int]:
    message = Message(id=str(number), type="t", body=b'{"number":%d}' % number, enqueued_at=1_000_000.0)
    return Delivery(message=message, source="s", group="g", receipt=number, count=count)


class House:
    """Slots over a ledger, with a handler that counts who is in."""

    def __init__(
        self,
        handler: Callable[[int], Awaitable[Outcome | None]],
        *listeners: Callable[[Any], None],
        codec: JsonCodec | None = None,
    ) -> None:
        self.ledger = Ledger(5)
        self.inside: set[int] = set()
        self.most = 0
        self.began: list[int] = []
        self._handler = handler
        registry = Registry()
        registry.add(self._handle, codec or JsonCodec(dict))
        clock = ManualClock()
        executor = Executor(registry=registry, policy=RetryPolicy(max_attempts=5), identity="w", clock=clock)
        self.slots = Slots(self.ledger, executor, CONCURRENCY, clock, Telemetry(*listeners))

    async def _handle(self, payload: dict[str, int], context: Context) -> Outcome | None:
        number = payload["number"]
        self.began.append(number)
        self.inside.add(number)
        self.most = max(self.most, len(self.inside))
        try:
            return await self._handler(number)
        finally:
            self.inside.discard(number)

    def add(self, *deliveries: Delivery[int]) -> None:
        self.ledger.add(deliveries)
        self.slots.wake()

    def outcomes(self) -> dict[str, Outcome]:
        return {item.delivery.message.id: item.outcome for item in self.ledger.finished}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@asynccontextmanager
async def house(handler: Callable[[int], Awaitable[Outcome | None]], *listeners: Any) -> AsyncIterator[House]:
    made = House(handler, *listeners)
    made.slots.start()
    try:
        yield made
    finally:
        await made.slots.stop()


async def at_once(number: int) -> None:
    return None


@pytest.mark.parametrize("chunks", [1, 7, 100])
async def test_all_slots_work_when_there_is_work_and_never_more_than_all(chunks: int) -> None:
    gate = asyncio.Event()

    async def wait(number: int) -> None:
        await gate.wait()

    async with house(wait) as made:
        await asyncio.sleep(0)
        for start in range(0, 100, chunks):
            made.add(*(delivery(n) for n in range(start, start + min(chunks, 100 - start))))
        await made.until(lambda: len(made.inside) == CONCURRENCY)
        for _ in range(20):
            await asyncio.sleep(0)
        assert made.slots.running == CONCURRENCY
        gate.set()
        await made.until(lambda: len(made.ledger.finished) == 100)
        assert made.most == CONCURRENCY
        assert made.slots.running == 0


async def test_work_that_comes_one_by_one_while_slots_are_busy_fills_the_free_ones() -> None:
    gate = asyncio.Event()

    async def wait(number: int) -> None:
        await gate.wait()

    async with house(wait) as made:
        for number in range(CONCURRENCY):
            made.add(delivery(number))
            await made.until(lambda number=number: len(made.inside) == number + 1)
        gate.set()
        await made.until(lambda: len(made.ledger.finished) == CONCURRENCY)


async def test_a_mixture_of_handlers_that_suspend_and_that_do_not_leaves_nothing_behind() -> None:
    async def mixed(number: int) -> None:
        for _ in range(number % 5):
            await asyncio.sleep(0)

    async with house(mixed) as made:
        for start in range(0, 2000, 50):
            made.add(*(delivery(n) for n in range(start, start + 50)))
            await asyncio.sleep(0)
        await made.until(lambda: len(made.ledger.finished) == 2000)
        assert made.most <= CONCURRENCY
        assert sorted(made.began) == list(range(2000))


async def test_handlers_that_never_suspend_do_not_starve_the_loop() -> None:
    turns: list[int] = []

    async with house(at_once) as made:

        async def somebody_else() -> None:
            while len(made.ledger.finished) < 10_000:
                turns.append(len(made.ledger.finished))
                await asyncio.sleep(0)

        other = asyncio.create_task(somebody_else())
        made.add(*(delivery(n) for n in range(10_000)))
        await made.until(lambda: len(made.ledger.finished) == 10_000)
        await other
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert max(gaps) <= 32 * CONCURRENCY
    assert len(turns) > 50


async def test_one_slot_sees_the_order_of_the_queue() -> None:
    async with house(at_once) as made:
        made.add(*(delivery(n) for n in range(500)))
        await made.until(lambda: len(made.ledger.finished) == 500)
        assert made.began == list(range(500))


async def test_suspects_run_one_at_a_time_beside_the_innocent() -> None:
    gates = {n: asyncio.Event() for n in range(6)}

    async def wait(number: int) -> None:
        await gates[number].wait()

    async with house(wait) as made:
        made.add(*(delivery(n, count=3) for n in range(3)), *(delivery(n) for n in range(3, 6)))
        await made.until(lambda: made.inside == {0, 3, 4, 5})
        gates[3].set()
        await made.until(lambda: 3 not in made.inside)
        for _ in range(10):
            await asyncio.sleep(0)
        assert made.inside == {0, 4, 5}  # a free slot does not take a second suspect
        gates[0].set()
        await made.until(lambda: made.inside == {1, 4, 5})
        gates[1].set()
        await made.until(lambda: made.inside == {2, 4, 5})
        for gate in gates.values():
            gate.set()
        await made.until(lambda: len(made.ledger.finished) == 6)


async def test_stopping_releases_what_runs_and_nothing_runs_afterwards() -> None:
    async def forever(number: int) -> None:
        await asyncio.Event().wait()

    async with house(forever) as made:
        made.add(*(delivery(n) for n in range(10)))
        await made.until(lambda: len(made.inside) == CONCURRENCY)
        await made.slots.stop()
        assert made.outcomes() == {str(n): Release() for n in range(CONCURRENCY)}
        made.slots.wake()
        await asyncio.sleep(0)
        assert made.inside == set()
        assert len(made.ledger.waiting) == 10 - CONCURRENCY


async def test_an_execution_that_lost_its_lease_does_not_decide_on_the_one_that_came_after_it() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    contexts: list[Context | None] = []

    async def wait(number: int) -> Outcome | None:
        contexts.append(current())
        mine = len(contexts) - 1
        await gates[mine].wait()
        return DeadLetter("second") if mine else ACK

    async with house(wait) as made:
        first, second = delivery(1), delivery(1, count=2)
        made.add(first)
        await made.until(lambda: len(contexts) == 1)
        assert made.ledger.lose(first)
        made.add(second)
        await made.until(lambda: len(contexts) == 2)
        gates[0].set()
        await made.until(lambda: made.slots.running == 1)
        assert made.outcomes() == {}
        gates[1].set()
        await made.until(lambda: made.slots.running == 0)
        assert made.outcomes() == {"1": DeadLetter("second")}
        assert [context.lease_lost for context in contexts if context] == [True, False]


async def test_what_was_lost_while_it_waited_is_not_run() -> None:
    async with house(at_once) as made:
        lost, kept = delivery(1), delivery(2)
        made.ledger.add([lost, kept])
        made.ledger.lose(lost)
        made.slots.wake()
        await made.until(lambda: len(made.ledger.finished) == 1)
        assert made.began == [2]


async def test_listeners_hear_of_each_start_and_end_and_a_broken_one_disturbs_nobody() -> None:
    events: list[Any] = []

    def broken(event: Any) -> None:
        raise ValueError(event)

    async def fail(number: int) -> None:
        if number == 2:
            raise OSError("no")

    async with house(fail, broken, events.append) as made:
        made.add(delivery(1), delivery(2), delivery(3))
        await made.until(lambda: len(events) == 6)
    assert [type(event) for event in events] == [Started, Finished] * 3
    assert [event.outcome for event in events if isinstance(event, Finished)] == ["ack", "retry", "ack"]


async def test_a_codec_that_panics_costs_its_message_and_not_the_slot() -> None:
    class Panic(BaseException):
        """As bindings to other languages raise it: no Exception."""

    class Panicky(JsonCodec):
        def decode(self, body: bytes) -> Any:
            payload = super().decode(body)
            if payload["number"] == 0:
                raise Panic
            return payload

    async def handler(number: int) -> None: ...

    made = House(handler, codec=Panicky(dict))
    made.slots.start()
    made.add(*map(delivery, range(10)))
    await made.until(lambda: len(made.ledger.finished) == 10)
    await made.slots.stop()
    outcome = made.outcomes()["0"]
    assert isinstance(outcome, DeadLetter)
    assert ("undecodable", list(range(1, 10))) == (outcome.reason, sorted(made.began))


async def test_a_handler_that_ends_in_peace_when_it_is_cancelled_does_not_hold_up_the_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(number: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    made = House(handler)
    made.slots.start()
    made.add(delivery(1))
    await made.until(lambda: made.inside == {1})
    async with asyncio.timeout(4):
        await made.slots.stop()
    assert {"1": ACK} == made.outcomes()
    assert caplog.records == []


async def test_a_slot_that_has_ended_by_itself_is_seen() -> None:
    async def handler(number: int) -> None:
        if number == 1:
            raise GeneratorExit  # what closing a coroutine raises in it: it cannot be caught like other errors

    made = House(handler)
    made.slots.start()
    made.add(delivery(0))
    await made.until(lambda: 0 in made.began)
    assert made.slots.alive
    made.add(delivery(1))
    await made.until(lambda: not made.slots.alive)
    with contextlib.suppress(GeneratorExit):
        await made.slots.stop()
