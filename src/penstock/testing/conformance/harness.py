"""What every part of the suite stands on: making brokers, letting time pass, sending and taking messages."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ...broker import Broker, Outgoing, Retention, Settlement, Subscription, SupportsReclaim, SupportsSchedule
from ...message import Delivery, Message
from ...outcome import Outcome
from ..clock import ManualClock

PATIENCE = 10.0  # seconds of real time that a test waits for what must come


class Harness:
    """The hooks that a driver's test class fills in, and the verbs that the tests are written in."""

    lease = 0.4  # seconds; a driver on a slow system may choose more

    async def make_broker(self) -> Broker[Any]:
        """One more owner on this test's system, not opened. The system is empty when the test begins."""
        raise AssertionError("a conformance class must define make_broker()")

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        """The same, opened with another retention (and its limits, such as ``max_length``) than the default."""
        raise AssertionError(f"{type(self).__name__} must define make_retaining(): its broker declares {retention!r}")

    async def lapse(self, seconds: float) -> None:
        """Let time pass for the system. Brokers that take the suite's clock need not override this."""
        await self.clock.advance(seconds)

    async def break_connections(self, broker: Broker[Any]) -> bool:
        """Cut the broker's connections as a network would; false if there is nothing to cut."""
        return False

    async def forget_everything(self) -> bool:
        """Wipe the system behind the brokers' backs (``FLUSHALL``); false if that is impossible."""
        return False

    async def delete_entry(self, source: str, message: Message) -> bool:
        """Delete a message as somebody with access to the system may; false if nobody may."""
        return False

    async def write_garbage(self, source: str) -> bool:
        """Put an entry that no driver can read where messages lie; false if the system has no such thing."""
        return False

    clock: ManualClock

    @pytest.fixture(autouse=True)
    async def _suite(self) -> AsyncIterator[None]:
        self.clock = ManualClock(start=time.time())
        self._open: list[Broker[Any]] = []
        yield
        for broker in reversed(self._open):
            await broker.close()

    @pytest.fixture
    def source(self) -> str:
        return f"q-{uuid.uuid4().hex[:8]}"

    @pytest.fixture
    def subscription(self, source: str) -> Subscription:
        return Subscription(source=source, group="g", lease=self.lease)

    @pytest.fixture
    async def broker(self, _suite: None) -> Broker[Any]:
        return await self.another()

    async def another(self) -> Broker[Any]:
        """One more owner, opened; closed when the test ends."""
        return await self._opened(await self.make_broker())

    async def retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        """One more owner with this retention, opened; skips the test if the broker does not declare it."""
        broker = await self.make_broker()
        if (retention,) == broker.capabilities.retentions[:1]:
            return await self._opened(broker)
        if retention not in broker.capabilities.retentions:
            pytest.skip(f"the broker declares no retention {retention!r}")
        return await self._opened(await self.make_retaining(retention, **limits))

    async def _opened(self, broker: Broker[Any]) -> Broker[Any]:
        self._open.append(broker)
        await broker.open()
        return broker

    async def pass_on(self) -> None:
        """What owners hold passes on to others: leases lapse, or where messages have none of their own, the owners go."""
        if not self._open[0].capabilities.own_leases:
            for broker in self._open:
                await broker.close()
        await self.lapse(self.lease * 1.5)

    def need(self, broker: Broker[Any], capability: str) -> None:
        """Skip unless the broker declares it."""
        if not getattr(broker.capabilities, capability):
            pytest.skip(f"the broker declares no {capability}")

    async def send(self, broker: Broker[Any], source: str, *messages: Message, delay: float = 0.0) -> Sequence[str]:
        return await broker.publish([Outgoing(destination=source, message=m, delay=delay) for m in messages])

    async def take(
        self, broker: Broker[Any], subscription: Subscription, limit: int = 100, wait: float = 0.0
    ) -> list[Delivery[Any]]:
        """What can be had now: due messages are promoted first."""
        await self.promote(broker, subscription)
        return list(await broker.fetch(subscription, limit, wait))

    async def collect(self, broker: Broker[Any], subscription: Subscription, count: int) -> list[Delivery[Any]]:
        """Take until there are ``count``; what was given back may take a moment to show."""
        found: list[Delivery[Any]] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < count and time.monotonic() < deadline:
            found += await self.take(broker, subscription)
            if len(found) < count:
                found += await self.reclaim(broker, subscription)
            if len(found) < count:
                await asyncio.sleep(0.01)
        return found

    async def one(self, broker: Broker[Any], subscription: Subscription) -> Delivery[Any]:
        """The one message that must be there."""
        found = await self.collect(broker, subscription, 1)
        assert len(found) == 1
        return found[0]

    async def promote(self, broker: Broker[Any], subscription: Subscription) -> None:
        if isinstance(broker, SupportsSchedule):
            await broker.promote_due(subscription.source, 1000, delayed=subscription.delayed)

    async def reclaim(
        self, broker: Broker[Any], subscription: Subscription, limit: int = 100, **bounds: int
    ) -> list[Delivery[Any]]:
        """Lapsed leases, where the broker must be asked for them; else those that fetch hands out again."""
        if isinstance(broker, SupportsReclaim):
            return [*await broker.reclaim(subscription, limit, **bounds)]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - a runtime check forgets R
        return list(await broker.fetch(subscription, limit, 0.0))

    async def settle(self, broker: Broker[Any], delivery: Delivery[Any], outcome: Outcome) -> bool:
        """Settle one; false if the lease was lost."""
        return not await broker.settle([Settlement(delivery=delivery, outcome=outcome)])


def message(body: bytes = b"[]", **fields: Any) -> Message:
    """A message to test with."""
    return replace(Message(type="t", body=body, enqueued_at=1_700_000_000.0), **fields)


def numbered(count: int) -> list[Message]:
    """Messages whose bodies are 0, 1, 2 …"""
    return [message(str(n).encode()) for n in range(count)]


def bodies(deliveries: Sequence[Delivery[Any]]) -> list[bytes]:
    return [d.message.body for d in deliveries]
