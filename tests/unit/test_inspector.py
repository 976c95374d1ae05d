"""The inspector beside a running worker: looking and leaving disturbs nothing."""

from __future__ import annotations

import asyncio

from penstock import Consumer, Inspector, Producer, Worker, open_broker
from penstock.brokers.memory import MemoryBroker


async def test_leaving_the_inspector_takes_nothing_from_a_worker_on_the_same_broker() -> None:
    broker, runs, go = open_broker("memory://"), 0, asyncio.Event()

    async def handle(_: dict[str, int]) -> None:
        nonlocal runs
        runs += 1
        await go.wait()

    await Producer(broker, "s", dict).send({"n": 1})
    consumer = Consumer(broker, "s", dict, handle)
    async with Worker(consumer):
        while not runs:
            await asyncio.sleep(0.01)
        async with Inspector(broker) as inspector:
            (stats,) = await inspector.stats("s")
            assert 1 == stats.groups[0].leased
        assert 1 == (await Inspector(broker).stats("s"))[0].groups[0].leased
        go.set()
        while not consumer.counters.acked:
            await asyncio.sleep(0.01)
    assert 1 == runs


async def test_an_inspector_may_be_entered_again() -> None:
    inspector = Inspector(MemoryBroker())
    for _ in range(2):
        async with inspector:
            assert [] == list(await inspector.sources())
    assert [] == list(await inspector.sources())
