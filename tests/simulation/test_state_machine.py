"""Brokers by chance against a model of the contract; and broken ones, which the same machine must find out."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from penstock.broker import Broker, Settlement, Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.brokers.sql import SqlBroker
from penstock.message import Delivery
from penstock.outcome import DeadLetter, Retry
from penstock.testing import ManualClock
from penstock.testing.state_machine import System, broker_machine

EXAMPLES = int(os.environ.get("PENSTOCK_EXAMPLES", "100"))


class Memory:
    def __init__(self, broker_class: type[MemoryBroker]) -> None:
        self.clock = ManualClock()
        self._system, self._class, self._names = MemorySystem(self.clock), broker_class, itertools.count()

    def connect(self) -> Broker[Any]:
        return self._class(self._system, identity=f"owner-{next(self._names)}")


class Sqlite:
    def __init__(self, path: Path) -> None:
        self.clock, self._path = ManualClock(), path

    def connect(self) -> Broker[Any]:
        return SqlBroker.from_url(f"sqlite:///{self._path}", clock=self.clock)


@contextmanager
def memory(broker_class: type[MemoryBroker] = MemoryBroker) -> Iterator[System]:
    yield Memory(broker_class)


@contextmanager
def sqlite() -> Iterator[System]:
    with tempfile.TemporaryDirectory() as directory:
        yield Sqlite(Path(directory) / "jobs.db")


def play(system: Any, examples: int, steps: int = 40, **options: Any) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    run_state_machine_as_test(broker_machine(system), settings=chosen)


def test_the_memory_broker_keeps_to_the_model() -> None:
    play(memory, EXAMPLES)


@pytest.mark.timeout(300)
def test_sqlite_keeps_to_the_model() -> None:
    play(sqlite, max(5, EXAMPLES // 10), steps=30)


class IgnoresTheLease(MemoryBroker):
    async def reclaim(self, subscription: Subscription, limit: int, **bounds: Any) -> Sequence[Delivery[int]]:
        for entry in self._system.group(subscription).leased.values():
            entry.deadline = 0.0
        return await super().reclaim(subscription, limit, **bounds)


class ForgetsDelayedRetries(MemoryBroker):
    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        found = await super().settle(settlements)
        if any(isinstance(item.outcome, Retry) and item.outcome.delay for item in settlements):
            self._system.streams["s"].delayed.clear()
        return found


class BuriesForEverybody(MemoryBroker):
    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        found = await super().settle(settlements)
        buried = {item.delivery.message.id for item in settlements if isinstance(item.outcome, DeadLetter)}
        for group in self._system.streams["s"].groups.values():
            for entry in [entry for entry in group.ready if entry.message.id in buried]:
                group.ready.remove(entry)
        return found


class KeepsWhatItHeldWhenClosed(MemoryBroker):
    async def close(self) -> None:
        for stream in self._system.streams.values():
            for group in stream.groups.values():
                for receipt in [r for r, entry in group.leased.items() if entry.owner == self.identity]:
                    del group.leased[receipt]


class BelievesEverybody(MemoryBroker):
    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        await super().settle(settlements)
        return []


@pytest.mark.parametrize(
    "broken",
    [IgnoresTheLease, ForgetsDelayedRetries, BuriesForEverybody, KeepsWhatItHeldWhenClosed, BelievesEverybody],
)
def test_a_broken_broker_is_found_out(broken: type[MemoryBroker]) -> None:
    with pytest.raises(AssertionError):
        play(lambda: memory(broken), 300, phases=(Phase.generate,), derandomize=True)
