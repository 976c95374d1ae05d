"""Fetching: limits, waiting, competition, and cancellation that loses nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec.structs import replace

from ...broker import Broker, Settlement, Subscription
from ...outcome import Ack
from ...turns import Turns
from .harness import PATIENCE, Harness, bodies, message, numbered


class FetchingTests(Harness):
    async def test_nothing_there_means_an_empty_answer(self, broker: Broker[Any], subscription: Subscription) -> None:
        assert [] == list(await broker.fetch(subscription, 10, 0.0))

    async def test_a_limit_is_kept_and_the_rest_stays(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(10))
        first = await self.take(broker, subscription, limit=4)
        assert 4 == len(first)
        assert 6 == len(await self.collect(broker, subscription, 6))

    async def test_a_fetched_message_is_invisible(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        await self.one(broker, subscription)
        assert [] == await self.take(broker, subscription)
        assert [] == await self.take(await self.another(), subscription)

    async def test_a_waiting_fetch_wakes_up_for_a_message(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.take(broker, subscription)
        waiting = asyncio.create_task(self.fetch(broker, subscription, wait=PATIENCE))
        await asyncio.sleep(0.02)
        await self.send(await self.another(), source, message(b"1"))
        assert [b"1"] == bodies(await asyncio.wait_for(waiting, PATIENCE))

    async def test_a_waiting_fetch_gives_up_in_time(self, broker: Broker[Any], subscription: Subscription) -> None:
        waiting = asyncio.create_task(self.fetch(broker, subscription, wait=0.2))
        await asyncio.sleep(0.05)
        await self.lapse(0.3)
        assert [] == list(await asyncio.wait_for(waiting, PATIENCE))

    async def test_two_owners_never_share_a_message(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        subscription = replace(subscription, lease=60.0)  # nothing lapses while they take it all
        await self.send(broker, source, *numbered(300))
        owners = [broker, await self.another(), await self.another()]
        found: list[bytes] = []

        async def drain(owner: Broker[Any]) -> None:
            deadline = time.monotonic() + PATIENCE
            while len(found) < 300 and time.monotonic() < deadline:
                found.extend(bodies(await self.fetch(owner, subscription, limit=7)))
                await asyncio.sleep(0.001)  # a server may take its time, and what it says be a moment old

        await asyncio.gather(*[drain(owner) for owner in owners])
        assert sorted(str(n).encode() for n in range(300)) == sorted(found)

    async def test_several_subscriptions_are_fetched_at_once(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        other = Subscription(source=f"{source}-b", group="g", lease=self.lease)
        slow = asyncio.create_task(self.fetch(broker, other, wait=PATIENCE))
        await asyncio.sleep(0.02)
        await self.send(broker, source, message(b"1"))
        assert [b"1"] == bodies(await asyncio.wait_for(self.fetch(broker, subscription, wait=PATIENCE), PATIENCE))
        await self.send(broker, other.source, message(b"2"))
        assert [b"2"] == bodies(await asyncio.wait_for(slow, PATIENCE))

    async def test_several_queues_are_taken_from_in_the_order_asked_for(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        fetch = broker.fetch if broker.capabilities.several else Turns(broker.fetch).fetch
        a, b = f"{source}-a", f"{source}-b"
        both = Subscription(source=f"{a},{b}", group="g", lease=self.lease, queues=(b, a))
        await self.send(broker, a, *numbered(3))
        await self.send(broker, b, *numbered(2))
        found = list(await fetch(both, 4, 0.0))
        assert [b, b, a, a] == [d.source for d in found]
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))
        found += await fetch(replace(both, queues=(a, b)), 9, 0.0)
        assert [b"0", b"1"] == sorted(bodies(found[:2]))
        assert [b"0", b"1", b"2"] == sorted(bodies(found[2:]))
        if broker.capabilities.ordered:
            assert [b"0", b"1", b"0", b"1", b"2"] == bodies(found)
        waiting = asyncio.ensure_future(fetch(both, 100, PATIENCE))
        await asyncio.sleep(0.02)
        await self.send(await self.another(), a, message(b'"late"'))
        assert [(a, b'"late"')] == [(d.source, d.message.body) for d in await asyncio.wait_for(waiting, PATIENCE)]

    async def test_a_waiting_fetch_does_not_hold_up_publishing(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        waiting = asyncio.create_task(self.fetch(broker, subscription, wait=PATIENCE))
        await asyncio.sleep(0.02)
        await asyncio.wait_for(self.send(broker, f"{source}-b", message()), PATIENCE / 4)
        await self.send(broker, source, message())
        await asyncio.wait_for(waiting, PATIENCE)

    async def test_cancelling_a_fetch_loses_nothing(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        got: list[bytes] = []
        for n in range(12):
            fetching = asyncio.create_task(self.fetch(broker, subscription, wait=PATIENCE))
            publishing = asyncio.create_task(self.send(broker, source, message(str(n).encode())))
            await asyncio.sleep(0.001 * (n % 4))
            fetching.cancel()
            for result in await asyncio.gather(fetching, return_exceptions=True):
                if not isinstance(result, BaseException):
                    got += bodies(result)
                    await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in result])
            await publishing
        await broker.close()
        got += bodies(await self.collect(await self.another(), subscription, 12 - len(got)))
        assert sorted(str(n).encode() for n in range(12)) == sorted(got)

    async def fetch(
        self, broker: Broker[Any], subscription: Subscription, *, limit: int = 100, wait: float = 0.0
    ) -> Any:
        return await broker.fetch(subscription, limit, wait)
