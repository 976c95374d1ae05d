"""The settler: insists through outages, isolates what cannot be written, lets go of what it gives up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import BrokerError, ConnectionFailed
from penstock.ledger import Ledger
from penstock.message import Delivery, Message
from penstock.outage import OutageLog
from penstock.outcome import ACK, DeadLetter, Outcome, Retry
from penstock.settling import Settler
from penstock.telemetry import LeaseLost, Telemetry
from penstock.testing.clock import ManualClock

SUBSCRIPTION = Subscription(source="s", lease=30.0)


class Failing(MemoryBroker):
    """Raises what ``fail`` answers before, or with ``late`` after, the real settle."""

    def __init__(self, system: MemorySystem) -> None:
        super().__init__(system)
        self.fail: Callable[[Sequence[Settlement[int]]], Exception | None] = lambda _: None
        self.late = False
        self.calls = 0

    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        self.calls += 1
        error = self.fail(settlements)
        if error is not None and not self.late:
            raise error
        lost = await super().settle(settlements)
        if error is not None:
            raise error
        return lost


class Desk:
    """A settler with everything around it, and some deliveries in hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = Failing(MemorySystem(self.clock))
        self.ledger = Ledger(5)
        self.events: list[Any] = []
        telemetry = Telemetry(self.events.append)
        outage = OutageLog("settler", "s", self.clock, random.Random(1), telemetry)
        self.settler = Settler(self.broker, self.ledger, self.clock, telemetry, outage)

    async def take(self, count: int) -> list[Delivery[int]]:
        messages = [Message(type="t", body=b"%d" % n) for n in range(count)]
        await self.broker.publish([Outgoing(destination="s", message=message) for message in messages])
        taken = list(await self.broker.fetch(SUBSCRIPTION, count, 0.0))
        self.ledger.add(taken)
        self.ledger.waiting.clear()
        return taken

    async def settle(self, *items: tuple[Delivery[int], Outcome]) -> None:
        await self.settler.settle([Settlement(delivery=d, outcome=o) for d, o in items])

    async def leased(self) -> int:
        return (await self.broker.stats("s")).groups[0].leased


async def test_a_batch_is_settled_once_the_broker_is_back_however_long_that_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    taken = await desk.take(3)
    desk.broker.fail = lambda _: ConnectionFailed("gone")
    work = asyncio.create_task(desk.settle(*((d, ACK) for d in taken)))
    for _ in range(50):
        await desk.clock.advance(10.0)
    assert desk.broker.calls > 50
    assert len(desk.ledger.held) == 3
    desk.broker.fail = lambda _: None
    await desk.clock.advance(10.0)
    await work
    assert desk.ledger.held == {}
    assert desk.ledger.counters.acked == 3
    assert await desk.leased() == 0
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING"]


async def test_an_outcome_that_was_applied_before_the_connection_broke_is_no_lost_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    (taken,) = await desk.take(1)
    desk.broker.late = True
    desk.broker.fail = lambda _: ConnectionFailed("gone") if desk.broker.calls == 1 else None
    with caplog.at_level(logging.INFO):
        work = asyncio.create_task(desk.settle((taken, ACK)))
        for _ in range(3):
            await desk.clock.advance(1.0)
        await work
    assert desk.ledger.held == {}
    assert desk.ledger.counters.lost == 0
    assert [event for event in desk.events if isinstance(event, LeaseLost)] == []
    assert "settled by a try that failed" in caplog.text


async def test_one_outcome_that_is_refused_holds_up_no_neighbour_and_is_tried_until_it_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    good, bad, fine = await desk.take(3)
    desk.broker.fail = lambda batch: BrokerError("no") if any(i.delivery is bad for i in batch) else None
    await desk.settle((good, ACK), (bad, DeadLetter("x")), (fine, ACK))
    assert desk.ledger.counters.acked == 2
    assert desk.ledger.counters.dead == 0
    assert [*desk.ledger.held] == [bad.message.id]  # the keeper renews it: the work that was done is not done again
    assert desk.settler.down
    for _ in range(20):
        await desk.clock.advance(60.0)
        await desk.settler.settle(desk.ledger.finished[:])
        desk.ledger.finished.clear()
    assert desk.broker.calls > 20
    desk.broker.fail = lambda _: None
    await desk.clock.advance(60.0)
    await desk.settler.settle(desk.ledger.finished)
    assert (desk.ledger.held, desk.settler.down, desk.ledger.counters.dead) == ({}, False, 1)
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "an outcome was refused, trying again: no"
    ]


async def test_a_refused_outcome_whose_lease_is_lost_meanwhile_is_tried_no_more() -> None:
    desk = Desk()
    (bad,) = await desk.take(1)
    desk.broker.fail = lambda _: BrokerError("no")
    await desk.settle((bad, DeadLetter("x")))
    assert desk.ledger.lose(bad)
    await desk.clock.advance(60.0)
    assert (desk.ledger.finished, desk.settler.down) == ([], False)


async def test_what_a_refused_batch_had_applied_already_is_no_lost_lease() -> None:
    desk = Desk()
    good, bad = await desk.take(2)

    def refuse(batch: Sequence[Settlement[int]]) -> Exception | None:
        return BrokerError("no") if any(item.delivery is bad for item in batch) else None

    desk.broker.fail = refuse
    await desk.broker.settle([Settlement(delivery=good, outcome=ACK)])  # as a driver does before it meets the bad one
    await desk.settle((good, ACK), (bad, DeadLetter("x")))
    assert desk.ledger.counters.lost == 0
    assert [event for event in desk.events if isinstance(event, LeaseLost)] == []
    assert [*desk.ledger.held] == [bad.message.id]


async def test_a_lone_outcome_that_is_refused_is_let_go_too() -> None:
    desk = Desk()
    (bad,) = await desk.take(1)
    desk.broker.fail = lambda _: ValueError("a bug in the driver")
    await desk.settle((bad, ACK))
    assert desk.ledger.held == {}
    assert desk.ledger.idle.is_set()
    assert desk.ledger.counters.acked == 0


async def test_a_refused_lease_is_counted_told_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    (mine,) = await desk.take(1)
    await desk.clock.advance(31.0)
    other = MemoryBroker(desk.broker._system, identity="other")
    assert len(await other.reclaim(SUBSCRIPTION, 1)) == 1
    await desk.settle((mine, ACK))
    assert desk.ledger.counters.lost == 1
    assert desk.ledger.counters.acked == 0
    assert [type(event) for event in desk.events] == [LeaseLost]
    assert "lease lost" in caplog.text
    assert desk.ledger.held == {}


async def test_an_outcome_whose_message_this_very_worker_took_again_goes_out_under_the_newer_lease() -> None:
    desk = Desk()
    (old,) = await desk.take(1)
    await desk.clock.advance(31.0)
    (new,) = await desk.broker.reclaim(SUBSCRIPTION, 1)
    desk.ledger.add([new])
    await desk.settle((old, ACK))
    assert desk.ledger.counters.lost == 0
    assert [(item.delivery.receipt, item.outcome) for item in desk.ledger.finished] == [(new.receipt, ACK)]
    await desk.settle((new, ACK))
    assert desk.ledger.counters.acked == 1
    assert await desk.leased() == 0


async def test_everything_in_hand_is_settled_in_batches_while_it_runs() -> None:
    desk = Desk()
    taken = await desk.take(50)
    running = asyncio.create_task(desk.settler.run())
    for number, each in enumerate(taken):
        desk.ledger.finish(each, Retry(0.0) if number % 2 else ACK)
    await desk.ledger.idle.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (desk.ledger.counters.acked, desk.ledger.counters.retried) == (25, 25)
    assert desk.broker.calls == 1
