"""The store of done keys in a SQL database: reserved by one, done for all, forgotten in time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store import Claim
from penstock.stores.sql import SqlStore
from penstock.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqlStore]:
    store = SqlStore.from_url(f"sqlite:///{tmp_path}/keys.db", clock=clock)
    yield store
    await store.close()


async def test_a_key_is_reserved_by_one_owner(store: SqlStore) -> None:
    assert Claim.NEW is await store.reserve("k", "a", 10)
    assert Claim.HELD is await store.reserve("k", "b", 10)
    assert Claim.NEW is await store.reserve("k", "a", 10)
    assert Claim.NEW is await store.reserve("other", "b", 10)


async def test_a_completed_key_is_done_for_everybody(store: SqlStore) -> None:
    await store.reserve("k", "a", 10)
    assert await store.complete("k", "a", 10)
    assert Claim.DONE is await store.reserve("k", "a", 10)
    assert Claim.DONE is await store.reserve("k", "b", 10)
    assert await store.complete("k", "a", 10)


async def test_only_the_owner_renews_completes_and_releases(store: SqlStore) -> None:
    await store.reserve("k", "a", 10)
    assert not await store.renew("k", "b", 10)
    assert not await store.complete("k", "b", 10)
    assert not await store.release("k", "b")
    assert Claim.HELD is await store.reserve("k", "b", 10)


async def test_a_released_key_is_free(store: SqlStore) -> None:
    await store.reserve("k", "a", 10)
    assert await store.release("k", "a")
    assert not await store.release("k", "a")
    assert Claim.NEW is await store.reserve("k", "b", 10)


async def test_what_is_done_cannot_be_released_or_renewed(store: SqlStore) -> None:
    await store.complete("k", "a", 10)
    assert not await store.release("k", "a")
    assert not await store.renew("k", "a", 10)
    assert Claim.DONE is await store.reserve("k", "b", 10)


async def test_a_reservation_lapses_unless_renewed(store: SqlStore, clock: ManualClock) -> None:
    await store.reserve("k", "a", 10)
    await clock.advance(8)
    assert await store.renew("k", "a", 10)
    await clock.advance(8)
    assert Claim.HELD is await store.reserve("k", "b", 10)
    await clock.advance(3)
    assert not await store.renew("k", "a", 10)
    assert Claim.NEW is await store.reserve("k", "b", 10)


async def test_a_done_key_is_forgotten_in_time(store: SqlStore, clock: ManualClock) -> None:
    await store.complete("k", "a", 10)
    await clock.advance(11)
    assert Claim.NEW is await store.reserve("k", "b", 10)


async def test_a_race_for_a_key_has_one_winner(store: SqlStore, tmp_path: Path, clock: ManualClock) -> None:
    rival = SqlStore.from_url(f"sqlite:///{tmp_path}/keys.db", clock=clock)
    claims = await asyncio.gather(*[(store, rival)[n % 2].reserve("k", f"{n}", 10) for n in range(20)])
    assert 1 == claims.count(Claim.NEW)
    await rival.close()


async def test_it_serves_as_a_cache_for_producers(store: SqlStore, clock: ManualClock) -> None:
    assert await store.set_if_absent("k", 10)
    assert not await store.set_if_absent("k", 10)
    await clock.advance(11)
    assert await store.set_if_absent("k", 10)


async def test_closing_may_be_repeated_and_is_safe_at_once(tmp_path: Path) -> None:
    store = SqlStore.from_url(f"sqlite:///{tmp_path}/keys.db")
    await store.close()
    await store.close()


async def test_looking_at_a_budget_writes_nothing(store: SqlStore, tmp_path: Path) -> None:
    """Workers look before each fetch, however long nothing comes."""
    assert 2 == (await store.spend("q", 2, 60.0, 0)).left
    assert 1 == (await store.spend("q", 2, 60.0, 1)).count
    with closing(sqlite3.connect(f"{tmp_path}/keys.db")) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        assert 1 == (await store.spend("q", 2, 60.0, 0)).left
        assert 2 == (await store.spend("never", 2, 60.0, 0)).left
        assert before == other.execute("PRAGMA data_version").fetchone()
