"""Subscriptions that come, go and meet each other at the same moment."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from penstock import NotificationManager
from penstock.broker import Outgoing
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.errors import ConfigurationError
from penstock.message import Message
from penstock.testing.clock import ManualClock
from tests.unit.notifying import Heard


async def test_who_subscribes_while_the_last_one_leaves_is_served() -> None:
    async with NotificationManager("memory://") as manager:
        first, second = Heard(), Heard()
        leaving = await manager.subscribe("x", first)
        _, joined = await asyncio.gather(leaving.unsubscribe(), manager.subscribe("x", second))
        await manager.publish("x", 1)
        await second.next()
        assert [joined] == manager.get_subscriptions()
        assert ([], [1]) == (first.payloads, second.payloads)


@pytest.mark.parametrize("turns", range(6))
async def test_a_manager_that_stops_while_somebody_subscribes_leaves_nothing_running(turns: int) -> None:
    manager = NotificationManager("memory://")
    joining = asyncio.create_task(manager.subscribe("x", Heard()))
    for _ in range(turns):
        await asyncio.sleep(0)
    await manager.stop_all()
    await asyncio.gather(joining, return_exceptions=True)
    if manager._stopping is not None:
        await manager._stopping
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_patterns_that_come_and_go_leave_nothing_behind_in_the_manager() -> None:
    async with NotificationManager("memory://") as manager:
        for number in range(20):
            subscription = await manager.subscribe(f"room.{number}", Heard())
            await subscription.unsubscribe(remove_pattern=True)
        gc.collect()
        assert 0 == len(manager._lanes._guards)


@pytest.mark.parametrize("other", [{"concurrency": 3}, {"payload_type": list[int]}])
async def test_two_subscriptions_that_one_consumer_cannot_serve_are_refused(other: dict[str, Any]) -> None:
    async with NotificationManager("memory://") as manager:
        await manager.subscribe("x", Heard())
        with pytest.raises(ConfigurationError, match=f"one {next(iter(other))}"):
            await manager.subscribe("x", Heard(), **other)
        await manager.subscribe("x", Heard(), group="another", **other)


async def test_a_pattern_that_means_nothing_is_refused_before_anything_is_made() -> None:
    async with NotificationManager("memory://") as manager:
        with pytest.raises(ConfigurationError, match="stands for more than"):
            await manager.subscribe("{1..99999}", Heard())
        assert manager.worker is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": [1]}, "headers are values by name"),
        ({"at": float("nan")}, "at is a moment"),
        ({"at": float("inf")}, "at is a moment"),
        ({"attempt": 0}, "attempt, which counts from 1"),
        ({"attempt": "2"}, "attempt, which counts from 1"),
        ({"key": 5}, "a key is a text, got 5"),
        ({"key": ""}, "a key is a text, got an empty one"),
        ({"key": "\ud800"}, "half a character"),
        ({"pubsub": True, "headers": {"a": 1}}, "no headers"),
    ],
)
async def test_what_cannot_be_meant_of_a_message_is_refused(options: dict[str, Any], said: str) -> None:
    async with NotificationManager("memory://") as manager:
        with pytest.raises(ConfigurationError, match=said):
            await manager.publish("x", 1, **options)


async def test_a_memory_broker_forgets_keys_that_have_expired() -> None:
    system = MemorySystem(clock := ManualClock())
    broker = MemoryBroker(system)
    for number in range(5000):
        message = Message(type="x", body=b"1", key=str(number))
        await broker.publish([Outgoing(destination="s", message=message, once=10.0)])
        await clock.advance(0.1)
    assert len(system.once) <= 1000
