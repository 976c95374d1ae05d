"""Interruptions: a settlement that is cancelled or cut off at any moment leaves its message in exactly one place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from ...broker import Broker, Settlement, Subscription, SupportsInspect
from ...errors import ConnectionFailed
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import PATIENCE, Harness, bodies, numbered
from .lifecycle import eventually

TURNS = (*range(9), 12, 20, 40)  # of the event loop, between the beginning of a settlement and its interruption
OUTCOMES = [Retry(0.05), DeadLetter("no"), Release(0.05)]


class InterruptionTests(Harness):
    @pytest.mark.parametrize("outcome", OUTCOMES)
    async def test_a_settlement_cancelled_at_any_moment_leaves_each_message_in_one_place(
        self, broker: Broker[Any], source: str, subscription: Subscription, outcome: Outcome
    ) -> None:
        async for _, settling in self._begun(broker, source, subscription, outcome):
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
        await self._each_in_one_place(source, subscription)

    @pytest.mark.parametrize("again", [False, True])
    @pytest.mark.parametrize("outcome", OUTCOMES)
    async def test_a_settlement_cut_off_at_any_moment_leaves_each_message_in_one_place(
        self, broker: Broker[Any], source: str, subscription: Subscription, outcome: Outcome, again: bool
    ) -> None:
        async for item, settling in self._begun(broker, source, subscription, outcome):
            if not await self.break_connections(broker):
                await settling
                pytest.skip("there is no connection to break")
            with suppress(ConnectionFailed):  # nothing else may be raised
                await settling
            if again:
                await eventually(lambda: broker.settle([item]))  # noqa: B023 - awaited before the next one
        await self._each_in_one_place(source, subscription, cut=True)

    async def _begun(
        self, broker: Broker[Any], source: str, subscription: Subscription, outcome: Outcome
    ) -> AsyncIterator[tuple[Settlement[Any], asyncio.Task[Sequence[Any]]]]:
        """A settlement for each message, each under way for a few more turns of the loop than the one before."""
        self.need(broker, "max_delay")
        await self.send(broker, source, *numbered(len(TURNS)))
        held = await self.collect(broker, subscription, len(TURNS))
        for delivery, turns in zip(held, TURNS, strict=True):
            item = Settlement(delivery=delivery, outcome=outcome)
            settling = asyncio.ensure_future(broker.settle([item]))
            for _ in range(turns):
                await asyncio.sleep(0)
            yield item, settling

    async def _each_in_one_place(self, source: str, subscription: Subscription, *, cut: bool = False) -> None:
        """Waiting, delayed, leased or dead: another owner finds every message, and none of them twice.

        A broker that cannot settle in one step may have one twice if it was cut off between the two.
        """
        await self.pass_on()
        other = await self.another()
        if not isinstance(other, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        twice_allowed = cut and not other.capabilities.atomic_settle
        found = [d for _ in range(3) for d in await self._look(other, subscription)]
        deadline = time.monotonic() + PATIENCE
        while True:
            dead = [letter.message.body for letter in await other.dead(source, 100)]
            places = [*bodies(found), *dead]
            if len(set(places) if twice_allowed else places) >= len(TURNS) or time.monotonic() > deadline:
                break
            await self.lapse(0.1)  # what was applied only now, after its caller had gone, has a delay of its own
            found += await self._look(other, subscription)
        assert sorted(str(n).encode() for n in range(len(TURNS))) == sorted(set(places) if twice_allowed else places)
        assert [] == list(await other.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))
        stats = await other.stats(source)
        assert len(dead) == stats.dead
        assert twice_allowed or (stats.size, stats.delayed) == (0, 0)

    async def _look(self, broker: Broker[Any], subscription: Subscription) -> list[Any]:
        found = [*await self.take(broker, subscription), *await self.reclaim(broker, subscription)]
        await asyncio.sleep(0.01)
        return found
