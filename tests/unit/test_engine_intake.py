"""The intake: back-pressure, reading ahead as far as the handlers are fast, and going on after outages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from penstock import Consumer, Producer, Worker
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import ConnectionFailed
from penstock.intake import AHEAD, OVERDUE, PREFETCH_BYTES, Intake, Prefetch
from penstock.ledger import Ledger
from penstock.message import Delivery, Message
from penstock.outage import OutageLog
from penstock.telemetry import Telemetry
from penstock.testing.clock import ManualClock

SUBSCRIPTION = Subscription(source="s", lease=1e9)
SLOTS = 10


class Watched(MemoryBroker):
    """Notes how much was asked for and fails when told to."""

    def __init__(self, system: MemorySystem) -> None:
        super().__init__(system)
        self.asked: list[int] = []
        self.error: Exception | None = None
        self.stuck = False

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[int]]:
        self.asked.append(limit)
        if self.error is not None:
            raise self.error
        if self.stuck:
            await asyncio.Event().wait()
        return await super().fetch(subscription, limit, wait)


class Mouth:
    """An intake, its ledger, and a stand-in for the handlers: ``eat``."""

    def __init__(self, prefetch: Prefetch) -> None:
        self.clock = ManualClock()
        self.broker = Watched(MemorySystem(self.clock))
        self.ledger = Ledger(5)
        self.most_held = 0
        outage = OutageLog("intake", "s", self.clock, random.Random(1), Telemetry())
        self.intake = Intake(
            self.broker.fetch,
            self.broker.capabilities.max_batch,
            lambda: SUBSCRIPTION,
            self.ledger,
            self._accept,
            slots=SLOTS,
            prefetch=prefetch,
            clock=self.clock,
            outage=outage,
        )

    def _accept(self, deliveries: Sequence[Delivery[int]]) -> None:
        self.ledger.add(deliveries)
        self.most_held = max(self.most_held, len(self.ledger.held))

    async def fill(self, count: int, size: int = 2) -> None:
        message = Message(type="t", body=b"x" * size)
        await self.broker.publish([Outgoing(destination="s", message=message)] * count)

    def eat(self, count: int) -> int:
        eaten = [self.ledger.waiting.popleft() for _ in range(min(count, len(self.ledger.waiting)))]
        self.ledger.forget(eaten)
        return len(eaten)

    async def breathe(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def mouth(prefetch: Prefetch | None = None) -> AsyncIterator[Mouth]:
    made = Mouth(prefetch or Prefetch())
    task = asyncio.create_task(made.intake.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_fetched_while_the_handlers_stand_still() -> None:
    async with mouth() as made:
        await made.fill(1000)
        await made.breathe()
        held = len(made.ledger.held)
        calls = len(made.broker.asked)
        for _ in range(20):
            await made.clock.advance(10.0)
        assert held == len(made.ledger.held) == SLOTS
        assert len(made.broker.asked) == calls


async def test_slow_jobs_are_not_hoarded() -> None:
    async with mouth() as made:
        await made.fill(200)
        for _ in range(100):
            await made.breathe()
            await made.clock.advance(1.0)
            made.eat(1)
        assert made.most_held <= SLOTS + 1


async def test_fast_handlers_are_read_ahead_for_in_proportion_and_within_the_bound() -> None:
    rate, most = 10_000, 400  # jobs a second, and the bound: twice as many ahead of the slots
    async with mouth(Prefetch(most=most)) as made:
        await made.fill(20_000)
        eaten = 0
        for _ in range(2000):
            await made.breathe()
            await made.clock.advance(0.005)
            eaten += made.eat(int(rate * 0.005))
        assert eaten == 20_000
        assert made.most_held > SLOTS * 5
        assert made.most_held <= SLOTS + min(2 * most, 2 * int(rate * AHEAD))
        assert max(made.broker.asked) <= most


async def test_large_bodies_are_read_ahead_by_bytes() -> None:
    size = 1024 * 1024
    async with mouth() as made:
        await made.fill(400, size)
        for _ in range(200):
            await made.breathe()
            await made.clock.advance(0.002)
            made.eat(20)
        assert made.most_held * size <= PREFETCH_BYTES + SLOTS * size


async def test_an_outage_is_waited_out_with_pauses_and_the_intake_goes_on_by_itself() -> None:
    async with mouth() as made:
        made.broker.error = ConnectionFailed("gone")
        await made.breathe()
        assert "fetching fails: gone" == made.intake.trouble
        assert made.intake.answered_at is None
        for _ in range(100):
            await made.clock.advance(1.0)
        assert 20 <= len(made.broker.asked) <= 60
        made.broker.error = None
        await made.fill(3)
        await made.clock.advance(6.0)
        await made.breathe()
        assert "" == made.intake.trouble
        assert len(made.ledger.held) == 3


async def test_a_fetch_that_never_comes_back_does_not_look_like_waiting_for_messages() -> None:
    async with mouth(Prefetch(wait=2.0)) as made:
        await made.fill(1)
        await made.breathe()
        made.broker.stuck = True
        await made.clock.advance(2.5)
        await made.breathe()
        assert "" == made.intake.trouble
        await made.clock.advance(OVERDUE + 3.0)
        assert "a fetch has had no answer for more than 32 s" == made.intake.trouble
        made.intake.halted()
        assert "" == made.intake.trouble


async def test_a_bug_in_a_driver_does_not_end_the_intake() -> None:
    async with mouth() as made:
        made.broker.error = ZeroDivisionError("a bug")
        await made.breathe()
        made.broker.error = None
        await made.fill(3)
        await made.clock.advance(6.0)
        await made.breathe()
        assert len(made.ledger.held) == 3


async def test_a_quiet_intake_has_no_room() -> None:
    async with mouth() as made:
        assert made.intake.room() == SLOTS
        made.intake.quiet = True
        assert made.intake.room() == 0


async def test_a_free_slot_gets_a_message_although_no_other_one_ends() -> None:
    broker, running, stuck = MemoryBroker(), asyncio.Semaphore(0), asyncio.Event()

    async def handler(payload: dict[str, int]) -> None:
        running.release()
        await stuck.wait()

    producer = Producer(broker, "s", dict)
    async with Worker(Consumer(broker, "s", dict, handler, concurrency=5), drain=0.0), asyncio.timeout(5):
        for n in range(5):
            await producer.send({"n": n})
            await running.acquire()
        stuck.set()
