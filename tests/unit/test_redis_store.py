"""Idempotency keys in Redis and Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock.store import Claim
from penstock.stores.redis import RedisCache, RedisStore
from tests.servers.redis_server import Server


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(redis_url)
    yield store
    await store.close()


async def test_a_key_is_reserved_by_one_and_then_done_for_all(store: RedisStore, shared_server: Server):
    assert Claim.NEW is await store.reserve("k", "a", 60)
    assert Claim.HELD is await store.reserve("k", "b", 60)
    assert b"PENDING:a" == shared_server.call("GET", "k")
    assert await store.complete("k", "a", 60)
    assert b"DONE" == shared_server.call("GET", "k")
    assert Claim.DONE is await store.reserve("k", "b", 60)
    assert Claim.DONE is await store.reserve("k", "a", 60)


async def test_only_the_owner_renews_completes_and_releases(store: RedisStore):
    await store.reserve("k", "a", 60)
    assert not await store.renew("k", "b", 60)
    assert not await store.complete("k", "b", 60)
    assert not await store.release("k", "b")
    assert await store.renew("k", "a", 60)
    assert await store.release("k", "a")
    assert not await store.renew("k", "a", 60)
    assert not await store.release("k", "a")
    assert Claim.NEW is await store.reserve("k", "b", 60)


async def test_each_step_may_be_repeated(store: RedisStore):
    assert [Claim.NEW] * 2 == [await store.reserve("k", "a", 60) for _ in range(2)]
    assert [True] * 2 == [await store.complete("k", "a", 60) for _ in range(2)]


async def test_a_forgotten_reservation_can_still_be_completed(store: RedisStore):
    assert await store.complete("k", "a", 60)
    assert Claim.DONE is await store.reserve("k", "b", 60)


async def test_a_done_key_is_not_released(store: RedisStore):
    await store.complete("k", "a", 60)
    assert not await store.release("k", "a")
    assert Claim.DONE is await store.reserve("k", "a", 60)


async def test_times_to_live_are_the_servers_and_renewed(store: RedisStore, shared_server: Server):
    await store.reserve("k", "a", 5)
    assert shared_server.call("PTTL", "k") <= 5000
    await store.renew("k", "a", 50)
    assert 5000 < shared_server.call("PTTL", "k") <= 50_000
    await store.complete("k", "a", 0.5)
    assert shared_server.call("PTTL", "k") <= 500


async def test_a_race_has_one_winner(redis_url: str):
    stores = [RedisStore.from_url(redis_url) for _ in range(3)]
    claims = await asyncio.gather(*[stores[n % 3].reserve("k", str(n), 60) for n in range(30)])
    assert 1 == claims.count(Claim.NEW)
    assert 29 == claims.count(Claim.HELD)
    for store in stores:
        await store.close()


async def test_the_cache_knows_a_key_for_its_time(redis_url: str, shared_server: Server):
    cache = RedisCache.from_url(redis_url)
    assert await cache.set_if_absent("idemp:s:k", 60)
    assert not await cache.set_if_absent("idemp:s:k", 60)
    assert 0 < shared_server.call("TTL", "idemp:s:k") <= 60
    await cache.close()
