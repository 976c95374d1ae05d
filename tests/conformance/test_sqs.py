"""The delivery contract on SQS. What is peculiar to the driver is in ``tests/unit/test_sqs_*.py``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Broker, Subscription
from penstock.brokers.sqs import SqsBroker
from penstock.message import Delivery
from penstock.testing.conformance import BrokerConformance
from tests.servers.sqs_server import SqsServer

LOOKS = 3


class _Sqs(BrokerConformance):
    lease = 3.0  # SQS counts whole seconds

    @pytest.fixture(autouse=True)
    def _server(self, sqs_server: SqsServer) -> None:
        sqs_server.flush()
        self.server = sqs_server

    async def make_broker(self) -> Broker[Any]:
        return SqsBroker.from_url(self.server.url)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

    async def take(
        self, broker: Broker[Any], subscription: Subscription, limit: int = 100, wait: float = 0.0
    ) -> list[Delivery[Any]]:
        """A short poll may overlook what is there: only a few of them in a row say that there is nothing."""
        found: list[Delivery[Any]] = []
        for _ in range(LOOKS):
            if len(found) < limit:
                found += await broker.fetch(subscription, limit - len(found), wait)
        return found

    async def reclaim(
        self, broker: Broker[Any], subscription: Subscription, limit: int = 100, **bounds: int
    ) -> list[Delivery[Any]]:
        return await self.take(broker, subscription, limit)

    async def forget_everything(self) -> bool:
        self.server.flush()
        return True

    async def write_garbage(self, source: str) -> bool:
        client = self.server.client()
        url = client.create_queue(QueueName=source)["QueueUrl"]
        broken = {"penstock": {"DataType": "String", "StringValue": "{no json"}}
        client.send_message(QueueUrl=url, MessageBody="?", MessageAttributes=broken)
        client.close()
        return True


class TestStandardQueues(_Sqs):
    """Every queue is a standard one."""
