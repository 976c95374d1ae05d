"""The store in Redis and Valkey, by each client library."""

from __future__ import annotations

import asyncio

import pytest

from penstock.store import Store
from penstock.stores.redis import RedisStore
from penstock.testing.conformance import StoreConformance


class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_store(self) -> Store:
        return RedisStore.from_url(self.url)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # keys expire by the server's clock


class TestRedisStoreByGlide(TestRedisStore):
    @pytest.fixture(autouse=True)
    def _by_glide(self, _server: None, glide_installed: None) -> None:
        self.url = self.url.replace("redis", "glide", 1)
