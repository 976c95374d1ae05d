"""The worker's life: start, quiet, stop, in any order and any number of times."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from penstock import Claim, Consumer, Context, Producer, RetryPolicy, Worker
from penstock.broker import Broker, Presence, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import AccessDenied, ConfigurationError, ConnectionFailed
from penstock.message import Delivery
from penstock.testing import FlakyBroker


class Broken(MemoryBroker):
    """Does not open. Counts how often it is closed."""

    closed = 0

    async def open(self) -> None:
        raise ConnectionFailed("nobody there")

    async def close(self) -> None:
        self.closed += 1


class Watched(MemoryBroker):
    """A broker with presence that refuses to take anybody off its list."""

    closed = 0

    async def beat(self, presence: Presence, ttl: float) -> None: ...

    async def leave(self, identity: str) -> None:
        raise AccessDenied("no")

    async def processes(self) -> Sequence[Presence]:
        return ()

    async def close(self) -> None:
        self.closed += 1
        await super().close()


async def nothing(payload: dict[str, Any]) -> None: ...


def consumer(broker: Broker[Any], handler: Any = nothing, **options: Any) -> Consumer[Any]:
    return Consumer(broker, "s", dict, handler, claim=Claim(min_idle=5.0), **options)


async def test_stopping_before_the_start_and_twice_and_at_once_is_all_the_same() -> None:
    worker = Worker(consumer(MemoryBroker()))
    assert await worker.stop()
    await worker.start()
    await worker.start()
    assert await asyncio.gather(worker.stop(), worker.stop(), worker.stop()) == [True] * 3
    assert await worker.stop()
    assert not worker.ready


async def test_a_worker_may_be_started_again_after_it_has_stopped() -> None:
    system, ran = MemorySystem(), list[int]()

    async def handler(payload: dict[str, int]) -> None:
        ran.append(payload["n"])

    producer = Producer(MemoryBroker(system), "s", dict)
    worker = Worker(consumer(MemoryBroker(system), handler))
    for n in range(3):
        async with worker, asyncio.timeout(5):
            await producer.send({"n": n})
            while len(ran) <= n:
                await asyncio.sleep(0.001)
    assert ran == [0, 1, 2]


async def test_a_start_that_fails_cleans_up_and_says_why_and_may_be_tried_again() -> None:
    good, bad = Watched(), Broken()
    worker = Worker(consumer(good), consumer(bad))
    for attempt in (1, 2):
        with pytest.raises(ConnectionFailed, match="nobody there"):
            await worker.start()
        assert not worker.ready
        assert (good.closed, bad.closed) == (attempt, attempt)
        assert await worker.stop()


async def test_a_broker_that_refuses_the_farewell_is_closed_all_the_same() -> None:
    broker = Watched()
    async with Worker(consumer(broker)):
        pass
    assert broker.closed == 1


async def test_it_is_ready_once_the_broker_has_answered_and_not_when_quiet() -> None:
    worker = Worker(consumer(MemoryBroker(), options=None))
    assert not worker.ready
    async with worker, asyncio.timeout(5):
        await Producer(worker.brokers[0], "s", dict).send({})
        while not worker.ready:
            await asyncio.sleep(0.001)
        await worker.quiet()
        assert not worker.ready


async def test_it_is_not_ready_while_outcomes_cannot_be_written_though_nothing_is_being_fetched() -> None:
    broker = FlakyBroker(MemoryBroker())
    broker.fail("settle", times=float("inf"))
    await Producer(broker, "s", dict).send_many([{}] * 50)
    async with Worker(consumer(broker)) as worker, asyncio.timeout(5):
        while not worker.ready:
            await asyncio.sleep(0.001)
        while worker.ready:
            await asyncio.sleep(0.001)
        broker.heal()
        while not worker.ready:
            await asyncio.sleep(0.001)


async def test_no_handler_runs_after_stop_has_returned_and_what_was_not_run_is_given_back() -> None:
    system, running = MemorySystem(), set[int]()

    async def handler(payload: dict[str, int]) -> None:
        running.add(payload["n"])
        await asyncio.sleep(3600)

    broker = MemoryBroker(system)
    await Producer(broker, "s", dict).send_many([{"n": n} for n in range(20)])
    worker = Worker(consumer(MemoryBroker(system, identity="w"), handler, concurrency=3))
    async with asyncio.timeout(10):
        await worker.start()
        while len(running) < 3:
            await asyncio.sleep(0.001)
        assert not await worker.stop(0.05)
        stats = await broker.stats("s")
        assert (stats.size, stats.groups[0].leased) == (20, 0)
        back = await broker.fetch(Subscription(source="s"), 100, 0.0)
        assert {delivery.count for delivery in back} == {1}
        assert len(running) == 3


async def test_a_handler_that_will_not_be_cancelled_does_not_hold_up_the_stop_for_ever() -> None:
    stubborn = asyncio.Event()

    async def handler(payload: dict[str, int]) -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    broker = MemoryBroker()
    worker = Worker(consumer(broker, handler))
    async with asyncio.timeout(20):
        await worker.start()
        await Producer(broker, "s", dict).send({})
        while not worker.consumers[0].in_flight:
            await asyncio.sleep(0.001)
        assert not await worker.stop(0.05)
    stubborn.set()


async def test_a_signal_during_the_start_stops_the_worker_in_an_orderly_way() -> None:
    class Slow(MemoryBroker):
        async def open(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)

    broker = Slow()
    async with asyncio.timeout(10):
        await Worker(consumer(broker)).run()
    assert (await broker.stats("s")).size == 0


async def test_who_asks_it_to_shut_down_before_the_first_step_of_its_start_is_heard() -> None:
    worker = Worker(consumer(MemoryBroker()))

    async def hasty() -> None:
        worker.shut_down()

    async with asyncio.timeout(10):
        first = asyncio.create_task(hasty())
        await worker.run()
        await first


async def test_run_serves_until_asked_to_shut_down() -> None:
    worker = Worker(consumer(MemoryBroker()))
    async with asyncio.timeout(10):
        serving = asyncio.create_task(worker.run())
        while not worker.consumers[0].running:
            await asyncio.sleep(0.001)
        worker.shut_down()
        await serving
    assert not worker.consumers[0].running


async def test_a_run_that_is_cancelled_stops_the_worker() -> None:
    worker = Worker(consumer(MemoryBroker()))
    async with asyncio.timeout(10):
        serving = asyncio.create_task(worker.run())
        while not worker.ready:
            await asyncio.sleep(0.001)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert not worker.consumers[0].running


def test_nonsense_is_refused_before_any_io() -> None:
    broker = MemoryBroker()
    with pytest.raises(ConfigurationError, match="at least one consumer"):
        Worker()
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        consumer(broker, concurrency=0)
    with pytest.raises(ConfigurationError, match="names"):
        Consumer(broker, "", dict, nothing)
    with pytest.raises(ConfigurationError, match="lease"):
        Consumer(broker, "s", dict, nothing, claim=Claim(min_idle=0.0))


async def test_a_lease_that_the_keeper_lost_is_told_to_the_handler_and_its_outcome_is_dropped() -> None:
    system = MemorySystem()

    class Thief(MemoryBroker):
        stolen = False

        async def extend(self, deliveries: Sequence[Delivery[int]], lease: float) -> Sequence[Delivery[int]]:
            return list(deliveries) if Thief.stolen else await super().extend(deliveries, lease)

        def fork(self) -> Thief:
            return Thief(self._system, identity=self.identity, forked=True)

    told = asyncio.Event()

    async def handler(payload: dict[str, Any], context: Any) -> None:
        Thief.stolen = True
        while not context.lease_lost:
            await asyncio.sleep(0.001)
        told.set()

    broker = Thief(system)
    worker = Worker(Consumer(broker, "s", dict, handler, claim=Claim(min_idle=0.2), retry=RetryPolicy(max_attempts=1)))
    async with worker, asyncio.timeout(10):
        await Producer(broker, "s", dict).send({})
        await told.wait()
        counters = worker.consumers[0].counters
        while not counters.lost:
            await asyncio.sleep(0.001)
        assert counters.acked == 0


async def test_a_handler_that_blocks_the_loop_hears_of_its_lost_lease_all_the_same() -> None:
    """The lease keeper's own thread tells its context: nobody else could."""
    system, told = MemorySystem(), list[bool]()
    broker = MemoryBroker(system, identity="w")

    async def handle(payload: dict[str, Any], context: Context) -> None:
        system.streams["s"].groups["default"].leased.clear()  # another worker has taken it, and settled it
        until = time.monotonic() + 20.0
        while not context.lease_lost and time.monotonic() < until:
            time.sleep(0.005)
        told.append(context.lease_lost)

    blocking = Consumer(broker, "s", dict, handle, claim=Claim(min_idle=0.4))
    await Producer(broker, "s", dict).send({})
    async with Worker(blocking), asyncio.timeout(30):
        while not told or not blocking.counters.lost:
            await asyncio.sleep(0.001)
    assert told == [True]
    assert (blocking.counters.lost, blocking.counters.acked) == (1, 0)
