"""Pausing: nothing is fetched, what has not begun is given back, what runs goes on; here, or for every worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock import Claim, Consumer, Context, Inspector, Producer, RetryPolicy, Send, Worker
from penstock.broker import Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import AccessDenied, ConnectionFailed, UnsupportedFeature
from penstock.telemetry import Outage, Telemetry
from penstock.testing import VirtualClock, run_virtual


class House:
    """A memory broker and a worker on one virtual clock."""

    def __init__(self, *, kind: type[MemoryBroker] = MemoryBroker, **terms: Any) -> None:
        self.clock = VirtualClock()
        self.system = MemorySystem(self.clock)
        self.broker = kind(self.system, identity="w")
        self.producer = Producer(MemoryBroker(self.system, identity="p"), "s", dict, clock=self.clock)
        self.began: list[int] = []
        self.telemetry = Telemetry()
        self.consumer = Consumer(
            self.broker, "s", dict, self.handle, **{"concurrency": 2, "retry": RetryPolicy(backoff=5.0), **terms}
        )
        self.worker = Worker(
            self.consumer, lease_thread=False, clock=self.clock, dice=random.Random(1), telemetry=self.telemetry
        )

    async def handle(self, job: dict[str, Any], context: Context) -> None:
        self.began.append(job["n"])
        await asyncio.sleep(job.get("seconds", 0.0))
        if job.get("fails") and not context.attempt:
            raise OSError

    async def send(self, *numbers: int, **more: Any) -> None:
        await self.producer.send_many([Send({"n": n, **more}, key="k") for n in numbers])


def virtual(program: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(program())  # type: ignore[arg-type]

    run.__name__ = program.__name__
    return run


@virtual
async def test_a_paused_consumer_finishes_what_runs_and_gives_back_the_rest() -> None:
    made = House()
    await made.send(*range(2), seconds=10.0)
    await made.send(*range(2, 9))
    async with made.worker:
        await asyncio.sleep(1)
        await made.consumer.pause()
        await asyncio.sleep(1)
        stats = await made.broker.stats("s")
        assert (stats.size, stats.groups[0].leased, made.consumer.in_flight) == (9, 2, 2)
        assert made.worker.ready
        assert made.worker.presence(made.broker).paused == ("s/default",)
        await asyncio.sleep(60)
        await made.send(9)
        await asyncio.sleep(60)
        assert (made.began, made.consumer.counters.acked) == ([0, 1], 2)
        await made.consumer.resume()
        await asyncio.sleep(1)
        assert sorted(made.began) == list(range(10))
        assert made.consumer.counters.acked == 10
        assert made.worker.presence(made.broker).paused == ()


@virtual
async def test_a_paused_consumer_takes_nothing_over_from_the_dead() -> None:
    made = House(claim=Claim(min_idle=2.0, interval=0.5))
    await made.consumer.pause()
    async with made.worker:
        await made.send(1)
        dead = MemoryBroker(made.system, identity="dead")
        assert len(await dead.fetch(Subscription(source="s", lease=2.0), 1, 0.0)) == 1
        await asyncio.sleep(10)
        assert (made.began, made.consumer.counters.reclaimed) == ([], 0)
        await made.consumer.resume()
        await asyncio.sleep(1)
        assert (made.began, made.consumer.counters.reclaimed) == ([1], 1)


@virtual
async def test_what_one_broker_has_paused_goes_on_at_another() -> None:
    one, two = House(), House()
    worker = Worker(one.consumer, two.consumer, lease_thread=False, clock=one.clock, telemetry=Telemetry())
    await one.broker.open()
    await one.broker.pause("s")
    async with worker:
        await one.send(1)
        await two.send(2)
        await asyncio.sleep(10)
        assert (one.began, two.began) == ([], [2])


@virtual
async def test_a_consumer_may_be_paused_before_it_starts_and_stays_so_over_a_restart() -> None:
    made = House()
    await made.send(1)
    await made.worker.pause()
    for _ in range(2):
        async with made.worker:
            await asyncio.sleep(10)
            assert made.worker.ready
    assert made.began == []
    async with made.worker:
        await made.worker.resume()
        await asyncio.sleep(1)
    assert made.began == [1]


@virtual
async def test_pausing_and_resuming_in_a_hurry_ends_with_the_last_wish() -> None:
    for wishes in ("pr", "prp", "prpr", "ppr", "rrp"):
        made = House()
        async with made.worker:
            verbs = {"p": made.consumer.pause, "r": made.consumer.resume}
            await asyncio.gather(*(verbs[wish]() for wish in wishes))
            await made.send(1)
            await asyncio.sleep(5)
            assert made.began == ([] if wishes[-1] == "p" else [1])
            await made.consumer.resume()
            await asyncio.sleep(5)
            assert made.began == [1]


@virtual
async def test_a_paused_worker_stops_and_a_quiet_one_does_not_go_on() -> None:
    made = House()
    async with made.worker:
        await made.worker.pause()
        await asyncio.sleep(1)
        assert await made.worker.stop()
    async with made.worker:
        await made.worker.quiet()
        await made.worker.resume()
        await made.send(1)
        await asyncio.sleep(10)
        assert made.began == []


@virtual
async def test_an_outage_does_not_outlast_the_intake_that_was_paused_in_it() -> None:
    class Cut(MemoryBroker):
        cut = True

        async def fetch(self, subscription: Any, limit: int, wait: float) -> Any:
            if limit and self.cut:
                raise ConnectionFailed("cut")
            return await super().fetch(subscription, limit, wait)

    made = House(kind=Cut)
    events = list[Outage]()
    made.telemetry.subscribe(lambda event: events.append(event) if isinstance(event, Outage) else None)
    async with made.worker:
        await asyncio.sleep(1)
        assert not made.worker.ready
        await made.consumer.pause()
        assert made.worker.ready
        await made.consumer.resume()
        await asyncio.sleep(1)
        assert not made.worker.ready
        Cut.cut = False
        await asyncio.sleep(20)
        assert made.worker.ready
    assert [False, True, False, True] == [event.ended for event in events]


@virtual
async def test_an_ordered_consumer_goes_on_where_it_was() -> None:
    made = House(ordered=True)
    await made.send(1, fails=True)
    await made.send(2, 3)
    async with made.worker:
        await asyncio.sleep(1)
        await made.consumer.pause()  # 1 waits for its retry, 2 and 3 behind it
        await asyncio.sleep(1)
        assert (await made.broker.stats("s")).delayed == 1
        await made.consumer.resume()
        await asyncio.sleep(20)
        assert made.consumer.counters.acked == 3
        (running,) = made.consumer.running
        assert running.ledger.aside == 0
        assert sorted(made.began) == [1, 1, 2, 3]
        made.began.clear()
        await made.send(4, fails=True)
        await made.send(5)
        await asyncio.sleep(20)
        assert made.began == [4, 4, 5]  # retries keep their turn as they did before


@virtual
async def test_what_is_paused_at_the_broker_is_paused_in_every_worker_within_seconds() -> None:
    made = House()
    async with made.worker, Inspector(made.broker) as inspector:
        await made.send(1)
        await asyncio.sleep(1)
        assert await inspector.pause("s")
        await asyncio.sleep(3)
        await made.send(2)
        await asyncio.sleep(10)
        assert (made.began, made.consumer.paused, made.worker.ready) == ([1], True, True)
        await made.consumer.resume()  # for here only
        await asyncio.sleep(10)
        assert made.began == [1]
        await made.consumer.pause()
        assert await inspector.resume("s")
        await asyncio.sleep(10)
        assert made.began == [1]  # still paused here
        await made.consumer.resume()
        await asyncio.sleep(1)
        assert made.began == [1, 2]


@virtual
async def test_a_worker_that_starts_takes_nothing_of_what_is_paused() -> None:
    made = House()
    await made.send(1)
    await made.broker.pause("s")
    async with made.worker:
        await asyncio.sleep(0.001)
        assert (await made.broker.stats("s")).groups[0].leased == 0
        await asyncio.sleep(10)
        assert made.began == []
        await made.broker.resume("s")
        await asyncio.sleep(3)
        assert made.began == [1]


@pytest.mark.parametrize(("name", "began"), [("s", set()), ("s:1", {0})])
def test_shards_are_paused_together_or_alone(name: str, began: set[int]) -> None:
    async def program() -> None:
        made = House(shards=2)
        await made.broker.pause(name)
        for shard in range(2):
            await Producer(made.broker, f"s:{shard}", dict, clock=made.clock).send({"n": shard})
        async with made.worker:
            await asyncio.sleep(5)
            assert set(made.began) == began
            await made.broker.resume(name)
            await asyncio.sleep(5)
            assert set(made.began) == {0, 1}

    run_virtual(program())


class Forbidding(MemoryBroker):
    """Does not let anybody see what is paused."""

    async def paused(self) -> frozenset[str]:
        raise AccessDenied("no")


@virtual
async def test_a_worker_that_may_not_see_what_is_paused_works() -> None:
    made = House(kind=Forbidding)
    await made.send(1)
    async with made.worker:
        await asyncio.sleep(10)
    assert made.began == [1]


class Bare:
    """A broker that cannot pause."""

    def __init__(self, inner: MemoryBroker) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in {"pause", "resume", "paused"}:
            raise AttributeError(name)
        return getattr(self._inner, name)


async def test_a_broker_that_cannot_pause_says_so_and_names_the_other_way() -> None:
    inspector = Inspector(Bare(MemoryBroker()))  # type: ignore[arg-type]
    assert await inspector.paused() == frozenset()
    with pytest.raises(UnsupportedFeature, match=r"cannot pause streams; use Worker\.pause\(\) in each process"):
        await inspector.pause("s")
