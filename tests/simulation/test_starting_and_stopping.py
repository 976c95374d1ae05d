"""A worker that is stopped while it starts: found by the simulation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import Consumer, Message, Worker
from penstock.broker import Outgoing
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.errors import ConnectionFailed
from penstock.telemetry import Telemetry
from penstock.testing import FlakyBroker, VirtualClock, run_virtual

SLOW = 5.0  # seconds that connecting takes


class Stage:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = FlakyBroker(MemoryBroker(MemorySystem(self.clock)), clock=self.clock)
        self.broker.delay("open", SLOW)
        self.ran: list[Any] = []
        consumer = Consumer(self.broker, "s", dict, self.handle)
        self.worker = Worker(consumer, clock=self.clock, lease_thread=False, telemetry=Telemetry())

    async def handle(self, job: dict[str, Any]) -> None:
        self.ran.append(job)

    async def publish(self) -> None:
        await self.broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"{}"))])


def test_a_stop_during_a_slow_start_ends_it_and_nothing_runs_afterwards() -> None:
    async def story() -> None:
        stage = Stage()
        starting = asyncio.create_task(stage.worker.start())
        await stage.clock.sleep(1.0)
        assert await stage.worker.stop()
        await starting  # it has done nothing wrong
        await stage.publish()
        await stage.clock.sleep(60.0)
        assert stage.ran == []
        assert stage.broker.calls["fetch"] == 0

    run_virtual(story())


def test_a_stop_before_the_start_has_had_its_first_turn_ends_it_too() -> None:
    async def story() -> None:
        stage = Stage()
        starting = asyncio.create_task(stage.worker.start())
        await asyncio.sleep(0)
        await stage.worker.stop()
        await starting
        await stage.publish()
        await stage.clock.sleep(60.0)
        assert stage.ran == []

    run_virtual(story())


def test_a_worker_stopped_while_it_started_can_be_started_again() -> None:
    async def story() -> None:
        stage = Stage()
        starting = asyncio.create_task(stage.worker.start())
        await stage.clock.sleep(1.0)
        await stage.worker.stop()
        await starting
        await stage.publish()
        async with stage.worker:
            await stage.clock.sleep(60.0)
        assert stage.ran == [{}]

    run_virtual(story())


def test_whoever_cancels_a_start_gets_his_cancellation_back_and_a_worker_that_can_start() -> None:
    async def story() -> None:
        stage = Stage()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await stage.worker.start()
        await stage.publish()
        async with stage.worker:
            await stage.clock.sleep(60.0)
        assert stage.ran == [{}]

    run_virtual(story())


def test_a_start_that_failed_can_be_tried_again() -> None:
    async def story() -> None:
        stage = Stage()
        stage.broker.fail("open")
        with pytest.raises(ConnectionFailed):
            await stage.worker.start()
        await stage.publish()
        async with stage.worker:
            await stage.clock.sleep(60.0)
        assert stage.ran == [{}]

    run_virtual(story())
