"""The flaky broker: fails as told, before or after the effect, and is the broker it wraps otherwise."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from penstock import Message
from penstock.broker import (
    Broker,
    Outgoing,
    Retention,
    Subscription,
    SupportsInspect,
    SupportsPresence,
    SupportsReclaim,
    SupportsSchedule,
)
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.memory_system import MemorySystem
from penstock.brokers.sql import SqlBroker
from penstock.errors import AccessDenied, BrokerError, ConnectionFailed
from penstock.testing import FlakyBroker, ManualClock
from penstock.testing.conformance import BrokerConformance

SUBSCRIPTION = Subscription(source="s")


class TestFlakyBrokerThatWasToldNothing(BrokerConformance):
    _system: MemorySystem | None = None
    _names = itertools.count()

    async def make_broker(self) -> Broker[Any]:
        if self._system is None:
            self._system = MemorySystem(self.clock)
        return FlakyBroker(MemoryBroker(self._system, identity=f"owner-{next(self._names)}"))

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        assert self._system is not None
        return FlakyBroker(
            MemoryBroker(self._system, identity=f"owner-{next(self._names)}", retention=retention, **limits)
        )


async def publish(broker: Broker[Any], body: bytes = b"1") -> None:
    await broker.publish([Outgoing(destination="s", message=Message(type="t", body=body))])


async def waiting(broker: Broker[Any]) -> int:
    assert isinstance(broker, SupportsInspect)
    return (await broker.stats("s")).size


async def test_a_call_that_fails_before_its_effect_has_none() -> None:
    broker = FlakyBroker(MemoryBroker())
    broker.fail("publish")
    with pytest.raises(ConnectionFailed):
        await publish(broker)
    assert await waiting(broker) == 0
    await publish(broker)
    assert await waiting(broker) == 1


async def test_a_call_that_fails_after_its_effect_has_had_it() -> None:
    broker = FlakyBroker(MemoryBroker())
    broker.fail("publish", after=True)
    with pytest.raises(ConnectionFailed):
        await publish(broker)
    assert await waiting(broker) == 1


async def test_every_third_call_fails_with_the_error_that_was_asked_for_until_it_is_healed() -> None:
    broker = FlakyBroker(MemoryBroker())
    broker.fail_every("publish", 3, error=AccessDenied("no"))
    fates = []
    for _ in range(7):
        try:
            await publish(broker)
            fates.append("ok")
        except BrokerError as error:
            fates.append(type(error).__name__)
    assert fates == ["ok", "ok", "AccessDenied"] * 2 + ["ok"]
    assert broker.calls["publish"] == 7
    broker.heal()
    for _ in range(3):
        await publish(broker)


async def test_a_fork_shares_faults_and_counts() -> None:
    broker = FlakyBroker(MemoryBroker())
    fork = broker.fork()
    broker.fail("publish")
    with pytest.raises(ConnectionFailed):
        await publish(fork)
    assert fork.calls["publish"] == broker.calls["publish"] == 1


async def test_an_optional_verb_fails_too_and_one_that_the_broker_lacks_is_refused() -> None:
    broker = FlakyBroker(MemoryBroker())
    broker.fail("reclaim")
    assert isinstance(broker, SupportsReclaim)
    with pytest.raises(ConnectionFailed):
        await broker.reclaim(SUBSCRIPTION, 1)
    with pytest.raises(ValueError, match="promote_due"):
        broker.fail("promote_due")


async def test_a_delayed_call_waits_by_the_clock() -> None:
    clock = ManualClock()
    broker = FlakyBroker(MemoryBroker(MemorySystem(clock)), clock=clock)
    broker.delay("publish", 60.0)
    sending = asyncio.create_task(publish(broker))
    await clock.advance(59.0)
    assert not sending.done()
    await clock.advance(2.0)
    await sending


def test_it_supports_what_its_broker_supports_and_nothing_else() -> None:
    for inner in (MemoryBroker(), SqlBroker.from_url("sqlite://")):
        for protocol in (SupportsReclaim, SupportsSchedule, SupportsPresence, SupportsInspect):
            assert isinstance(inner, protocol) == isinstance(FlakyBroker(inner), protocol)
