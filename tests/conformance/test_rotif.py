"""The delivery contract on Rotif's schema. What is peculiar to it is in ``tests/unit/test_notifications_*``."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from penstock.broker import Broker, Retention
from penstock.brokers.rotif import RotifBroker
from penstock.message import Message
from penstock.testing.conformance import BrokerConformance
from tests.servers.redis_server import Server


class _Rotif(BrokerConformance):
    kind: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        self.server: Server = request.getfixturevalue(f"{self.kind}_server")
        self.server.flush()

    @pytest.fixture
    def source(self) -> str:
        return f"rotif:stream:q-{uuid.uuid4().hex[:8]}"

    async def make_broker(self) -> Broker[Any]:
        return RotifBroker.from_url(f"rotif+{self.server.url}")

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        return RotifBroker.from_url(f"rotif+{self.server.url}", retention=retention, **limits)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

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
        self.server.call("XADD", source, "*", "channel", b"\xff\x00", "nonsense", "1")
        return True


class TestRedis(_Rotif):
    kind = "redis"


class TestValkey(_Rotif):
    kind = "valkey"
