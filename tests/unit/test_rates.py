"""Rate limits: by queue before anything is fetched, by key once it is; charged for what is taken and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    App,
    ConfigurationError,
    ConnectionFailed,
    Consumer,
    Context,
    Job,
    Options,
    Rate,
    RateLimit,
    Worker,
    WorkerOptions,
    open_broker,
)
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.job import JOBS
from penstock.message import Delivery, Message
from penstock.rate import rate_of
from penstock.rates import Budget, Gate, Rates
from penstock.store import Grant
from penstock.stores.memory import MemoryStore
from penstock.testing.clock import ManualClock

Q = Subscription(source="q")
TEN_A_MINUTE = Budget("q", Rate(10, 60.0))


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(start=1_700_000_000.0)
        self.store, self.system = MemoryStore(self.clock), MemorySystem(self.clock)
        self.broker = MemoryBroker(self.system, identity="me")

    def gate(self) -> Gate:
        return Gate(self.broker, Rates(self.store, {"q": TEN_A_MINUTE, "q:high": TEN_A_MINUTE}), self.clock)

    async def send(self, count: int, queue: str = "q") -> None:
        message = Message(type="str", body=b'"x"')
        await self.broker.publish([Outgoing(destination=queue, message=message) for _ in range(count)])

    async def left(self) -> int:
        return (await self.store.spend("q", 10, 60.0, 0)).left


class Unsteady:
    """A store that cannot be reached the first times."""

    def __init__(self, store: MemoryStore, times: int) -> None:
        self._store, self._times = store, times

    async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
        self._times -= 1
        if self._times >= 0:
            raise ConnectionFailed("away")
        return await self._store.spend(name, limit, window, wanted)


@pytest.fixture
def world() -> World:
    return World()


async def test_no_more_is_fetched_than_the_budget_allows_whoever_fetches(world: World):
    await world.send(30)
    one, other = world.gate(), world.gate()
    assert [7, 3, 0] == [len(await gate.fetch(Q, 7, 0.0)) for gate in (one, other, one)]
    await world.clock.advance(61.3)
    assert 10 == len(await other.fetch(Q, 100, 0.0))


async def test_looking_into_an_empty_queue_costs_nothing(world: World):
    gate = world.gate()
    for _ in range(50):
        assert [] == list(await gate.fetch(Q, 5, 0.0))
    assert 10 == await world.left()


async def test_what_did_not_come_is_given_back(world: World):
    await world.send(3)
    gate = world.gate()
    assert 3 == len(await gate.fetch(Q, 8, 0.0))
    assert 7 == await world.left()


async def test_the_priorities_of_a_queue_share_its_budget(world: World):
    await world.send(8)
    await world.send(8, "q:high")
    gate = world.gate()
    assert 8 == len(await gate.fetch(Subscription(source="q:high"), 8, 0.0))
    assert 2 == len(await gate.fetch(Q, 8, 0.0))


@pytest.mark.parametrize(("queues", "fetches"), [(["q"], 1), (["q", "free"], 8)])
async def test_queues_with_one_budget_are_asked_together_where_the_broker_can(
    queues: list[str], fetches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An idle worker has little to ask then; the limit holds all the same."""
    monkeypatch.setattr(JOBS, "_classes", {})
    ran, asked = list[int](), set[tuple[str, ...]]()

    class Once(Job, queue="q"):
        number: int

        async def handle(self) -> None:
            ran.append(self.number)

    async with App(f"sqlite:///{tmp_path}/jobs.db") as app:
        await app.push_many([Once(n).with_priority(n) for n in (-1, 0, 5, 10)])
        broker = app.broker()
        fetch = broker.fetch

        async def told(subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
            asked.add(subscription.queues or (subscription.source,))
            return await fetch(subscription, limit, wait)

        monkeypatch.setattr(broker, "fetch", told)
        limits = {"q": {"limit": 3, "window": 3600}}
        async with app.worker(WorkerOptions(queues=queues, rate_limits=limits, concurrency=1)):
            while len(ran) < 3:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
    assert [10, 5, 0] == ran
    assert fetches == len({each for each in asked if "" not in each})


async def test_a_fetch_that_fails_or_is_cancelled_costs_nothing(world: World):
    class Down(MemoryBroker):
        async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
            if not wait:
                raise ConnectionFailed("down")
            await asyncio.Event().wait()
            return []

    gate = Gate(Down(MemorySystem(), identity="me"), Rates(world.store, {"q": TEN_A_MINUTE}), world.clock)
    with pytest.raises(ConnectionFailed):
        await gate.fetch(Q, 5, 0.0)
    waiting = asyncio.ensure_future(gate.fetch(Q, 5, 1.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert 10 == await world.left()


async def test_what_others_have_spent_meanwhile_goes_back_uncounted(world: World):
    await world.send(8)
    other = world.gate()

    class Slow(MemoryBroker):
        async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
            found = await super().fetch(subscription, limit, wait)
            await world.store.spend("q", 10, 60.0, 5)
            return found

    slow = Slow(world.system, identity="slow")
    assert 5 == len(await Gate(slow, Rates(world.store, {"q": TEN_A_MINUTE}), world.clock).fetch(Q, 8, 0.0))
    assert [] == list(await other.fetch(Q, 8, 0.0))
    await world.clock.advance(61.3)
    assert [1, 1, 1] == [delivery.count for delivery in await other.fetch(Q, 8, 0.0)]


async def test_the_store_that_goes_away_in_between_costs_no_message(world: World):
    class Leaving(MemoryStore):
        async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
            if wanted:
                raise ConnectionFailed("gone")
            return Grant(0, 10, 0.0)

    await world.send(2)
    with pytest.raises(ConnectionFailed, match="gone"):
        await Gate(world.broker, Rates(Leaving(), {"q": TEN_A_MINUTE}), world.clock).fetch(Q, 5, 0.0)
    assert [1, 1] == [delivery.count for delivery in await world.broker.fetch(Q, 5, 0.0)]


async def test_without_the_store_nothing_is_fetched(world: World):
    class Away(MemoryStore):
        async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
            raise ConnectionFailed("the store is down")

    await world.send(1)
    gate = Gate(world.broker, Rates(Away(), {"q": TEN_A_MINUTE}), world.clock)
    with pytest.raises(ConnectionFailed, match="the store is down"):
        await gate.fetch(Q, 5, 0.0)
    assert 1 == len(await world.broker.fetch(Q, 5, 0.0))


async def test_a_queue_without_a_budget_is_free(world: World):
    await world.send(30, "free")
    assert 30 == len(await world.gate().fetch(Subscription(source="free"), 100, 0.0))


async def test_a_consumer_keeps_to_the_rate_of_its_queue():
    ran, broker, store = list[str](), open_broker("memory://"), MemoryStore()

    async def handle(name: str) -> None:
        ran.append(name)

    rates = Rates(store, {"q": Budget("q", Rate(3, 3600.0))})
    await broker.publish([Outgoing(destination="q", message=Message(type="str", body=b'"x"'))] * 10)
    async with Worker(Consumer(broker, "q", str, handle, options=Options(rates=rates))):
        while len(ran) < 3:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
    assert 3 == len(ran)
    assert 7 == len(await broker.fetch(Q, 100, 0.0))


async def test_a_key_that_has_nothing_left_goes_back_and_the_others_go_on():
    ran, broker, done = list[str](), open_broker("memory://"), asyncio.Event()

    async def handle(name: str) -> None:
        ran.append(name)
        if ran.count("b") == 2:
            done.set()

    limit = RateLimit(MemoryStore(), Rate(2, 3600.0))
    keys = ["a", "a", "a", "b", "b", None, None, None]
    await broker.publish(
        [Outgoing(destination="q", message=Message(type="str", body=f'"{k}"'.encode(), key=k)) for k in keys]
    )
    async with Worker(Consumer(broker, "q", str, handle, concurrency=1, middleware=[limit])) as worker:
        await asyncio.wait_for(done.wait(), 10)
        while len(ran) < 7:
            await asyncio.sleep(0.001)
        assert 0 == worker.consumers[0].counters.dead
    assert ["a", "a", "b", "b", "None", "None", "None"] == ran
    stats = await broker.stats("q")  # type: ignore[attr-defined]
    assert 1 == stats.size + stats.delayed


async def test_an_outage_of_the_store_costs_no_attempt_of_a_job_with_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock.middleware.ratelimit.OUTAGE_PAUSE", 0.01)
    attempts, broker, done, store = list[int](), open_broker("memory://"), asyncio.Event(), Unsteady(MemoryStore(), 8)

    async def handle(name: str, context: Context) -> None:
        attempts.append(context.attempt)
        done.set()

    await broker.publish([Outgoing(destination="q", message=Message(type="str", body=b'"a"', key="a"))])
    async with Worker(Consumer(broker, "q", str, handle, middleware=[RateLimit(store, Rate(2, 3600.0))])) as worker:
        await asyncio.wait_for(done.wait(), 10)
        assert (8, 0) == (worker.consumers[0].counters.released, worker.consumers[0].counters.retried)
    assert [0] == attempts


@pytest.mark.parametrize("given", [Rate(10, 60.0), {"limit": 10, "window": 60}, {"max": 10, "duration": 60_000}])
def test_rates_are_understood_as_people_write_them(given: Any):
    assert Rate(10, 60.0) == rate_of(given)


@pytest.mark.parametrize("wrong", [10, {"limit": 10}, {"limit": 0, "window": 1}, {"limit": 1, "window": 0}, (1, 2)])
def test_what_is_no_rate_is_refused(wrong: Any):
    with pytest.raises(ConfigurationError, match="rate"):
        rate_of(wrong)


async def test_an_app_limits_a_queue_with_all_its_priorities(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(JOBS, "_classes", {})
    ran: list[int] = []

    class Count(Job):
        async def handle(self) -> None:
            ran.append(1)

    options = WorkerOptions(rate_limits={"default": {"limit": 4, "window": 3600}})
    async with App(worker_options=options) as app:
        await app.push_many([Count() for _ in range(5)])
        await app.push_many([Count().with_priority("high") for _ in range(3)])
        await app.start_worker()
        while len(ran) < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert 4 == len(ran)
        assert 4 == await app.size()


def test_an_app_says_at_once_what_cannot_be_limited():
    with pytest.raises(ConfigurationError, match="a queue with a rate limit"):
        WorkerOptions(queues=["a"], rate_limits={"b": Rate(1, 1.0)})
    options = WorkerOptions(rate_limits={"default": Rate(1, 1.0)})
    app = App(MemoryBroker(MemorySystem(), identity="me"), worker_options=options)
    with pytest.raises(ConfigurationError, match="store='redis://"):
        app.worker()
