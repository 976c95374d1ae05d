"""The delivery contract on SQS. What is peculiar to the driver is in ``tests/unit/test_sqs_*.py``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.broker import Broker
from penstock.brokers.sqs import SqsBroker
from penstock.testing.conformance import BrokerConformance
from tests.servers.sqs_server import SqsServer


class _Sqs(BrokerConformance):
    lease = 1.0  # SQS counts whole seconds

    @pytest.fixture(autouse=True)
    def _server(self, sqs_server: SqsServer) -> None:
        sqs_server.flush()
        self.server = sqs_server

    async def make_broker(self) -> Broker[Any]:
        return SqsBroker.from_url(self.server.url)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

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
