"""The delivery contract on PostgreSQL and MariaDB. What is peculiar to them is in ``tests/unit/test_sql_servers.py``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Broker, Retention
from penstock.brokers.sql import SqlBroker
from penstock.testing.conformance import BrokerConformance
from penstock.testing.conformance.turns import ODD_KEYS
from tests.servers.sql_server import SqlServer


class _SqlServer(BrokerConformance):
    lease = 0.6
    odd_keys = tuple(key for key in ODD_KEYS if "\0" not in key and len(key) < 256)  # the others are refused
    kind: str
    server: SqlServer

    @pytest.fixture(autouse=True)
    def _a_server(self, request: pytest.FixtureRequest) -> None:
        self.server = request.getfixturevalue(f"{self.kind}_server")
        asyncio.run(self.server.clear())

    async def make_broker(self) -> Broker[Any]:
        return SqlBroker.from_url(self.server.url, create=True)

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        return SqlBroker.from_url(self.server.url, create=True, retention=retention, **limits)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

    async def break_connections(self, broker: Broker[Any]) -> bool:
        await self.server.cut()
        return True

    async def forget_everything(self) -> bool:
        await self.server.wipe()
        return True

    async def write_garbage(self, source: str) -> bool:
        await self.server.query(
            "INSERT INTO penstock_messages (queue, grp, type, headers, payload, available_at, created_at) "
            f"SELECT queue, grp, 't', '{{no json', 'x', 0, 0 FROM penstock_streams WHERE queue = '{source}'"
        )
        return True


class TestPostgreSQL(_SqlServer):
    kind = "postgres"


class TestMySQL(_SqlServer):
    """MariaDB, where Debian's package is what the tests can have."""

    kind = "mysql"
