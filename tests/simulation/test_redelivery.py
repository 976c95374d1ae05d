"""A message that comes again while its last delivery is still held here: races that the simulation found."""

from __future__ import annotations

import asyncio
import random

from penstock import Constant, Consumer, Message, RetryPolicy
from penstock.broker import Broker, Outgoing, Settlement
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.context import Context
from penstock.ledger import Ledger
from penstock.message import Delivery
from penstock.outage import Outages
from penstock.outcome import ACK, Retry
from penstock.services.leases import LeaseKeeper
from penstock.telemetry import Telemetry
from penstock.testing import FlakyBroker, VirtualClock, run_virtual
from penstock.worker import Worker


def delivery(attempt: int = 0, count: int = 1, receipt: int = 1) -> Delivery[int]:
    message = Message(id="1", type="t", body=b"{}", attempt=attempt)
    return Delivery(message=message, source="s", group="g", receipt=receipt, count=count)


def context() -> Context:
    return Context(
        id="1", type="t", stream="s", group="g", worker="w", attempt=0, max_attempts=5, key=None, headers={},
        enqueued_at=None,
    )  # fmt: skip


def test_a_lease_that_lapsed_and_came_back_to_its_holder_is_no_further_attempt() -> None:
    ledger = Ledger(5)
    ledger.add([delivery(attempt=1, count=1)])
    ledger.add([delivery(attempt=1, count=2, receipt=2)])
    ledger.finish(delivery(attempt=1), Retry(0.0))
    (item,) = ledger.finished
    assert (item.delivery.receipt, item.delivery.attempt) == (2, 1)


def test_an_answer_that_was_overtaken_by_a_newer_delivery_is_dropped() -> None:
    ledger, newer = Ledger(5), delivery(count=2, receipt=2)
    ledger.add([newer])
    ledger.add([delivery(count=1, receipt=1)])
    assert ledger.held["1"] is newer
    assert list(ledger.waiting) == [newer]


def test_a_retry_that_comes_back_before_the_answer_to_its_settling_waits_for_that_and_is_run() -> None:
    ledger, old, again = Ledger(5), delivery(), delivery(attempt=1, receipt=2)
    ledger.add([old])
    ledger.waiting.clear()
    ledger.settling.add("1")
    ledger.add([again])
    assert ledger.held["1"] is old
    assert not ledger.waiting
    ledger.settled(["1"], [old])
    assert ledger.held["1"] is again
    assert list(ledger.waiting) == [again]
    assert not ledger.idle.is_set()


def test_a_message_that_another_worker_has_retried_meanwhile_is_run_anew_and_the_old_outcome_dropped() -> None:
    ledger, old, again = Ledger(5), delivery(), delivery(attempt=1, receipt=2)
    ledger.add([old])
    ledger.waiting.clear()
    running = ledger.contexts["1"] = context()
    ledger.finish(old, ACK)
    ledger.add([again])
    assert running.lease_lost
    assert ledger.finished == []
    assert list(ledger.waiting) == [again]


def test_a_retry_whose_settling_lost_its_answer_costs_one_attempt() -> None:
    """The broker had applied it; the message came back to this very worker before the settling was tried again."""

    async def story() -> list[int]:
        clock = VirtualClock()
        broker = FlakyBroker(MemoryBroker(MemorySystem(clock)), clock=clock)
        attempts: list[int] = []

        async def fail_once(job: dict[str, int], context: Context) -> None:
            attempts.append(context.attempt)
            if context.attempt == 0:
                raise RuntimeError

        consumer = Consumer(broker, "s", dict, fail_once, retry=RetryPolicy(backoff=Constant(delay=0.0)))
        broker.fail("settle", after=True)
        await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"{}"))])
        async with Worker(consumer, clock=clock, lease_thread=False, telemetry=Telemetry()):
            await clock.sleep(20.0)
        assert consumer.counters.acked == 1
        return attempts

    assert run_virtual(story()) == [0, 1]


def test_a_retry_that_is_due_before_its_settling_is_answered_is_run_at_once() -> None:
    async def story() -> list[float]:
        clock = VirtualClock()
        system = MemorySystem(clock)

        class SlowToAnswer(MemoryBroker):
            async def settle(self, settlements: list[Settlement[int]]) -> list[Delivery[int]]:
                lost = await super().settle(settlements)
                await clock.sleep(0.5)
                return list(lost)

        broker: Broker[int] = SlowToAnswer(system)
        ran: list[float] = []

        async def fail_once(job: dict[str, int], context: Context) -> None:
            ran.append(clock.monotonic())
            if context.attempt == 0:
                raise RuntimeError

        consumer = Consumer(broker, "s", dict, fail_once, retry=RetryPolicy(backoff=Constant(delay=0.0)))
        await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"{}"))])
        async with Worker(consumer, clock=clock, lease_thread=False, telemetry=Telemetry()):
            await clock.sleep(20.0)
        return ran

    first, second = run_virtual(story())
    assert second - first < 2.0  # and not when the lease has lapsed


def test_after_an_outage_leases_are_renewed_as_often_as_before() -> None:
    """A message fetched right after the outage must not wait for the keeper's long pause."""

    async def story() -> float:
        clock = VirtualClock()
        broker = FlakyBroker(MemoryBroker(MemorySystem(clock)), clock=clock)
        held = [delivery()]
        keeper = LeaseKeeper(broker, "s", 2.0, lambda: held, lambda _: None)
        broker.fail("extend", times=float("inf"))
        task = asyncio.create_task(keeper.run(clock, random.Random(1), Telemetry(), Outages()))
        await clock.sleep(60.0)
        before = broker.calls["extend"]
        await clock.sleep(2.0)
        task.cancel()
        return broker.calls["extend"] - before

    assert run_virtual(story()) >= 3
