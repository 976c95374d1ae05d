"""Opening, closing, and living through what happens to networks and servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ...broker import Broker, Subscription
from ...errors import ConnectionFailed
from ...outcome import Ack
from .harness import PATIENCE, Harness, bodies, message


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is no lost connection."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except ConnectionFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


class LifecycleTests(Harness):
    async def test_opening_and_closing_may_be_repeated(self, broker: Broker[Any]) -> None:
        await broker.open()
        await broker.close()
        await broker.close()

    async def test_closing_before_opening_is_safe(self) -> None:
        broker = await self.make_broker()
        await broker.close()

    async def test_a_closed_broker_can_be_opened_again(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await broker.close()
        await broker.open()
        await self.send(broker, source, message(b"1"))
        assert await self.settle(broker, await self.one(broker, subscription), Ack())

    async def test_the_address_is_told(self, broker: Broker[Any]) -> None:
        assert "://" in broker.url
        assert broker.identity

    async def test_owners_have_names_of_their_own(self, broker: Broker[Any]) -> None:
        assert broker.identity != (await self.another()).identity

    async def test_work_goes_on_after_a_lost_connection(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message(b"1"))
        held = await self.one(broker, subscription)
        if not await self.break_connections(broker):
            pytest.skip("there is no connection to break")
        await eventually(lambda: self.send(broker, source, message(b"2")))
        await self.break_connections(broker)
        assert await eventually(lambda: self.settle(broker, held, Ack()))
        await self.break_connections(broker)
        assert [b"2"] == bodies(await eventually(lambda: self.collect(broker, subscription, 1)))

    async def test_a_fetch_that_waits_survives_or_says_that_the_connection_broke(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        waiting = asyncio.create_task(self.take(broker, subscription, wait=PATIENCE))
        await asyncio.sleep(0.05)
        if not await self.break_connections(broker):
            waiting.cancel()
            pytest.skip("there is no connection to break")
        await eventually(lambda: self.send(broker, source, message(b"1")))
        try:
            found = await asyncio.wait_for(waiting, PATIENCE)
        except ConnectionFailed:
            found = await eventually(lambda: self.collect(broker, subscription, 1))
        assert [b"1"] == bodies(found)

    async def test_a_system_that_forgot_everything_is_set_up_again(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message(b"1"))
        held = await self.one(broker, subscription)
        if not await self.forget_everything():
            pytest.skip("this system cannot forget behind our backs")
        assert not await self.settle(broker, held, Ack())
        assert [held] == list(await broker.extend([held], self.lease))
        assert [] == await self.take(broker, subscription)
        await self.send(broker, source, message(b"2"))
        assert [b"2"] == bodies(await self.collect(broker, subscription, 1))
