"""Consumers that come and go while their worker runs: the machinery below events and notifications."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Claim, Consumer, Producer, Worker
from penstock.broker import Broker, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import ConfigurationError, ConnectionFailed

LEASE = 0.4


class Watched(MemoryBroker):
    """Counts what is done for it, and tells who departs."""

    def __init__(self, system: MemorySystem, **options: Any) -> None:
        super().__init__(system, **options)
        self.closed, self.departed = 0, list[str]()

    async def close(self) -> None:
        self.closed += 1
        await super().close()

    async def depart(self, subscription: Subscription) -> None:
        self.departed.append(subscription.source)


class Away(MemoryBroker):
    async def open(self) -> None:
        raise ConnectionFailed("nobody there")


def consumer(broker: Broker[Any], stream: str, handler: Any, **options: Any) -> Consumer[Any]:
    return Consumer(broker, stream, dict, handler, claim=Claim(min_idle=LEASE, interval=0.05), **options)


async def ignore(_: dict[str, Any]) -> None: ...


class Heard:
    """A handler that tells what it was given."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self, payload: dict[str, int]) -> None:
        self.queue.put_nowait(payload["n"])

    async def next(self) -> int:
        async with asyncio.timeout(5):
            return await self.queue.get()


async def test_a_consumer_that_comes_later_is_served_and_one_that_goes_is_not() -> None:
    system, heard = MemorySystem(), Heard()
    broker = MemoryBroker(system)
    late, producer = consumer(broker, "late", heard), Producer(broker, "late", dict)
    async with Worker(consumer(broker, "early", ignore)) as worker:
        await worker.add(late)
        assert worker.ready
        await producer.send({"n": 1})
        assert await heard.next() == 1
        assert await worker.remove(late)
        assert [each.name for each in worker.consumers] == ["early/default"]
        await producer.send({"n": 2})
        await worker.add(late)
        assert await heard.next() == 2


async def test_a_consumer_that_goes_finishes_what_it_has_begun() -> None:
    broker, begun, go_on, done = MemoryBroker(), asyncio.Event(), asyncio.Event(), list[int]()

    async def slow(payload: dict[str, int]) -> None:
        begun.set()
        await go_on.wait()
        done.append(payload["n"])

    going = consumer(broker, "s", slow)
    async with Worker(consumer(broker, "other", ignore)) as worker:
        await worker.add(going)
        await Producer(broker, "s", dict).send({"n": 1})
        await asyncio.wait_for(begun.wait(), 5)
        leaving = asyncio.create_task(worker.remove(going))
        go_on.set()
        assert await asyncio.wait_for(leaving, 5)
        assert done == [1]
        assert (await broker.stats("s")).size == 0


async def test_what_is_not_finished_in_time_goes_back_uncounted() -> None:
    broker, begun = MemoryBroker(), asyncio.Event()
    attempts: asyncio.Queue[int] = asyncio.Queue()

    async def stuck(_: dict[str, int]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def other(_: dict[str, int], context: Any) -> None:
        attempts.put_nowait(context.attempt)

    going = consumer(broker, "s", stuck)
    async with Worker(consumer(broker, "x", ignore)) as worker:
        await worker.add(going)
        await Producer(broker, "s", dict).send({"n": 1})
        await asyncio.wait_for(begun.wait(), 5)
        assert not await worker.remove(going, timeout=0.05)
        await worker.add(consumer(broker, "s", other))
        assert await asyncio.wait_for(attempts.get(), 5) == 0


async def test_leases_of_a_consumer_that_came_later_are_renewed_while_it_blocks_the_loop() -> None:
    system, runs = MemorySystem(), list[int]()
    broker = MemoryBroker(system)
    done = asyncio.Event()

    async def blocking(payload: dict[str, int]) -> None:
        runs.append(payload["n"])
        time.sleep(3 * LEASE)
        done.set()

    async with Worker(consumer(broker, "early", ignore)) as worker:
        await worker.add(consumer(broker, "s", blocking))
        await Producer(broker, "s", dict).send({"n": 1})
        await asyncio.wait_for(done.wait(), 10)
        rival = MemoryBroker(system, identity="rival")
        assert list(await rival.reclaim(Subscription(source="s", lease=LEASE), 10)) == []
    assert runs == [1]


async def test_a_broker_is_left_once_with_the_worker_and_each_subscription_with_its_consumer() -> None:
    system = MemorySystem()
    ours, guest = Watched(system), Watched(system, identity="guest")
    going = consumer(guest, "s", ignore)
    worker = Worker(consumer(ours, "early", ignore))
    async with worker:
        await worker.add(going)
        await worker.remove(going)
        assert (guest.departed, guest.closed) == (["s"], 0)
    assert (ours.closed, guest.closed) == (1, 1)


async def test_a_consumer_that_cannot_start_changes_nothing() -> None:
    broker = MemoryBroker()
    async with Worker(consumer(broker, "early", ignore)) as worker:
        with pytest.raises(ConnectionFailed):
            await worker.add(consumer(Away(), "s", ignore))
        assert worker.ready
        assert len(worker.consumers) == 1


async def test_a_consumer_may_come_before_the_start_and_a_stranger_may_go() -> None:
    broker, heard = MemoryBroker(), Heard()
    worker = Worker(consumer(broker, "early", ignore))
    await worker.add(consumer(broker, "s", heard))
    assert await worker.remove(consumer(broker, "stranger", ignore))
    async with worker:
        await Producer(broker, "s", dict).send({"n": 1})
        assert await heard.next() == 1


async def test_nobody_comes_twice() -> None:
    once = consumer(MemoryBroker(), "s", ignore)
    async with Worker(once) as worker:
        with pytest.raises(ConfigurationError, match="belongs to this worker already"):
            await worker.add(once)


async def test_a_paused_stream_is_not_read_by_a_consumer_that_comes_later() -> None:
    broker, heard = MemoryBroker(), Heard()
    await broker.pause("s")
    await Producer(broker, "s", dict).send({"n": 1})
    late = consumer(broker, "s", heard)
    async with Worker(consumer(broker, "early", ignore)) as worker:
        await worker.add(late)
        assert late.paused
        assert heard.queue.empty()
        await broker.resume("s")
        assert await heard.next() == 1


async def test_many_come_and_go_at_once_and_a_stop_ends_them_all() -> None:
    broker = MemoryBroker()
    worker = Worker(consumer(broker, "early", ignore))
    await worker.start()
    many = [consumer(broker, f"s{n}", ignore) for n in range(20)]
    await asyncio.gather(*(worker.add(each) for each in many))
    leaving = [asyncio.create_task(worker.remove(each)) for each in many[:10]]
    assert await worker.stop()
    await asyncio.gather(*leaving)
    assert [each.name for each in worker.consumers if each.running] == []
