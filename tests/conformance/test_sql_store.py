"""The store in SQLite, PostgreSQL and MariaDB. What is peculiar to it is in ``tests/unit/test_sql_store.py``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.store import Store
from penstock.stores.sql import SqlStore
from penstock.testing.conformance import StoreConformance
from tests.servers.sql_server import SqlServer


class TestSqliteStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    async def make_store(self) -> Store:
        return SqlStore.from_url(f"sqlite:///{self.path}", clock=self.clock)


class TestSqlServerStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, sql_server: SqlServer) -> None:
        self.url = sql_server.url

    async def make_store(self) -> Store:
        return SqlStore.from_url(self.url, create=True)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # keys expire by the server's clock
