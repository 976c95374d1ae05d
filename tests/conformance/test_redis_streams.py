"""The delivery contract on Redis and Valkey Streams. What is peculiar to the driver is in ``tests/unit/test_redis_*``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Broker
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.message import Message
from penstock.testing.conformance import BrokerConformance
from tests.servers.redis_server import Server


class _RedisStreams(BrokerConformance):
    server: Server

    async def make_broker(self) -> Broker[Any]:
        return RedisStreamsBroker.from_url(self.server.url)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

    async def break_connections(self, broker: Broker[Any]) -> bool:
        self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return True

    async def forget_everything(self) -> bool:
        self.server.call("FLUSHALL")
        return True

    async def delete_entry(self, source: str, message: Message) -> bool:
        self.server.call("XDEL", source, message.id)
        return True

    async def write_garbage(self, source: str) -> bool:
        self.server.call("XADD", source, "*", "headers", "{no json", "payload", b"\xff\x00")
        return True


class TestRedis(_RedisStreams):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: Server) -> None:
        redis_server.flush()
        self.server = redis_server


class TestValkey(_RedisStreams):
    @pytest.fixture(autouse=True)
    def _server(self, valkey_server: Server) -> None:
        valkey_server.flush()
        self.server = valkey_server
