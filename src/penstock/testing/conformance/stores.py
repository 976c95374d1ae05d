"""The contract of a store, checked: reservations have one owner, and end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from ...store import Claim, Store
from ..clock import ManualClock


class StoreConformance:
    """Subclass, define ``make_store`` and, where the system keeps its own time, ``lapse``."""

    clock: ManualClock

    async def make_store(self) -> Store:
        """A store on this test's system; every call one more client of it."""
        raise AssertionError("a conformance class must define make_store()")

    async def lapse(self, seconds: float) -> None:
        """Let time pass for the system."""
        await self.clock.advance(seconds)

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        self.clock = ManualClock(start=time.time())
        store = await self.make_store()
        yield store
        await store.close()

    @pytest.fixture
    def key(self) -> str:
        return f"consumed:q:g:{uuid.uuid4().hex}:ü"

    async def test_the_first_to_come_gets_the_key(self, store: Store, key: str) -> None:
        assert await store.reserve(key, "a", 60) is Claim.NEW
        assert await store.reserve(key, "b", 60) is Claim.HELD

    async def test_an_owner_may_reserve_again(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.reserve(key, "a", 60) is Claim.NEW

    async def test_keys_are_told_apart(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.reserve(f"{key}2", "b", 60) is Claim.NEW

    async def test_what_is_done_stays_done_for_its_time(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.complete(key, "a", 1)
        assert await store.reserve(key, "a", 60) is Claim.DONE
        assert await store.reserve(key, "b", 60) is Claim.DONE
        await self.lapse(1.2)
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_completing_twice_is_fine(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.complete(key, "a", 60)
        assert await store.complete(key, "a", 60)

    async def test_a_reservation_ends_by_itself(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 1)
        await self.lapse(1.2)
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_a_renewed_reservation_lives_on(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 1)
        await self.lapse(0.6)
        assert await store.renew(key, "a", 60)
        await self.lapse(0.6)
        assert await store.reserve(key, "b", 60) is Claim.HELD

    async def test_a_released_key_is_free(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert await store.release(key, "a")
        assert await store.reserve(key, "b", 60) is Claim.NEW

    async def test_only_the_owner_renews_completes_and_releases(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        assert not await store.renew(key, "b", 60)
        assert not await store.complete(key, "b", 60)
        assert not await store.release(key, "b")
        assert await store.reserve(key, "c", 60) is Claim.HELD

    async def test_nothing_can_be_done_with_what_is_done_but_completing_it(self, store: Store, key: str) -> None:
        await store.reserve(key, "a", 60)
        await store.complete(key, "a", 60)
        assert not await store.renew(key, "a", 60)
        assert not await store.release(key, "a")
        assert await store.reserve(key, "a", 60) is Claim.DONE

    async def test_a_completion_without_a_reservation_counts(self, store: Store, key: str) -> None:
        """The reservation may have lapsed while the work was being done: done it is all the same."""
        assert await store.complete(key, "a", 60)
        assert await store.reserve(key, "b", 60) is Claim.DONE

    async def test_a_race_has_one_winner(self, store: Store, key: str) -> None:
        other = await self.make_store()
        claims = await asyncio.gather(*[(store, other)[n % 2].reserve(key, str(n), 60) for n in range(20)])
        await other.close()
        assert 1 == claims.count(Claim.NEW)
        assert 19 == claims.count(Claim.HELD)
