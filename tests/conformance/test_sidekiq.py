"""The delivery contract on Sidekiq's schema. What is peculiar to the driver is in ``tests/unit/test_sidekiq_*``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Broker
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.testing.conformance import BrokerConformance
from tests.servers.redis_server import Server


class _Sidekiq(BrokerConformance):
    kind: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        self.server: Server = request.getfixturevalue(f"{self.kind}_server")
        self.server.flush()

    async def make_broker(self) -> Broker[Any]:
        return SidekiqBroker.from_url(f"sidekiq+{self.server.url}")

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

    async def break_connections(self, broker: Broker[Any]) -> bool:
        self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return True

    async def forget_everything(self) -> bool:
        self.server.call("FLUSHALL")
        return True

    async def write_garbage(self, source: str) -> bool:
        self.server.call("LPUSH", f"queue:{source}", "{not json")
        return True


class TestRedis(_Sidekiq):
    kind = "redis"


class TestValkey(_Sidekiq):
    kind = "valkey"
