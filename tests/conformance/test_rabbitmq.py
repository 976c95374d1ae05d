"""The delivery contract on RabbitMQ. What is peculiar to the driver is in ``tests/unit/test_rabbitmq*.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest

from penstock.broker import Broker, StreamStats
from penstock.brokers.rabbitmq import RabbitmqBroker
from penstock.testing.conformance import BrokerConformance
from penstock.testing.proxy import FaultProxy
from tests.servers.rabbitmq_server import TICK, RabbitmqServer


class _Patient(RabbitmqBroker):
    """How much others hold is told by the server once in a while: the numbers asked for are those of a moment later."""

    async def stats(self, source: str) -> StreamStats:
        await asyncio.sleep(TICK * 4)
        return await super().stats(source)


class TestRabbitmq(BrokerConformance):
    lease = 0.8

    @pytest.fixture(autouse=True)
    async def _server(self, rabbitmq_server: RabbitmqServer) -> AsyncIterator[None]:
        self.server, self.direct = rabbitmq_server, rabbitmq_server.vhost()
        parts = urlsplit(self.direct)
        async with FaultProxy(parts.hostname or "", parts.port or 5672) as self.proxy:
            self.url = self.direct.replace(f":{parts.port}/", f":{self.proxy.port}/")
            yield
        rabbitmq_server.drop(self.direct)

    @pytest.fixture
    async def broker(self, _server: None, _suite: None) -> Broker[Any]:
        return await self.another()

    async def make_broker(self) -> Broker[Any]:
        return _Patient.from_url(self.url, management=self.server.management)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # delays are the server's, and it has a clock of its own

    async def break_connections(self, broker: Broker[Any]) -> bool:
        self.proxy.cut()
        return True

    async def forget_everything(self) -> bool:
        self.server.drop(self.direct)
        self.server.make(self.direct.rpartition("/")[2])
        await asyncio.sleep(0.2)  # until the broker has heard of it
        return True

    async def write_garbage(self, source: str) -> bool:
        async with await aio_pika.connect(self.direct) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("penstock", ensure=False)
            await exchange.publish(aio_pika.Message(b"\xff\x00", headers={"penstock-attempt": "x"}), source)
        return True
