"""The list of paused streams, which every owner sees."""

from __future__ import annotations

from typing import Any

import pytest

from ...broker import Broker, Subscription, SupportsPause
from .harness import Harness, message


def pausing(broker: Broker[Any]) -> SupportsPause:
    if not isinstance(broker, SupportsPause):
        pytest.skip("the broker cannot pause streams")
    return broker


class PauseTests(Harness):
    async def test_what_one_owner_pauses_every_owner_sees(self, broker: Broker[Any], source: str) -> None:
        mine, other = pausing(broker), pausing(await self.another())
        assert source not in await other.paused()
        assert await mine.pause(source)
        assert await mine.pause(f"{source}-b")
        assert {source, f"{source}-b"} <= await other.paused()
        assert await other.resume(source)
        assert source not in await mine.paused()
        assert await mine.resume(f"{source}-b")

    async def test_pausing_and_resuming_twice_is_no_news(self, broker: Broker[Any], source: str) -> None:
        each = pausing(broker)
        assert not await each.resume(source)
        assert [True, False] == [await each.pause(source), await each.pause(source)]
        assert [True, False] == [await each.resume(source), await each.resume(source)]

    async def test_the_list_says_nothing_to_the_broker_itself(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        """It is for workers to look at: what asks for messages gets them."""
        await pausing(broker).pause(source)
        await self.send(broker, source, message())
        assert len(await self.take(broker, subscription)) == 1
        await pausing(broker).resume(source)

    async def test_a_pause_outlives_the_one_who_asked_for_it(self, broker: Broker[Any], source: str) -> None:
        other = await self.another()
        await pausing(other).pause(source)
        await other.close()
        assert source in await pausing(broker).paused()
        await pausing(broker).resume(source)
