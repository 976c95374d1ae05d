"""The delivery contract on Apache Kafka. What is peculiar to the driver is in ``tests/unit/test_kafka_*.py``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import Producer

from penstock.broker import Broker, Subscription
from penstock.brokers.kafka import KafkaBroker
from penstock.message import Message
from penstock.outcome import Ack
from penstock.testing.conformance import BrokerConformance
from tests.servers.kafka_server import KafkaServer


class TestKafka(BrokerConformance):
    lease = 6.0

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: KafkaServer) -> None:
        kafka_server.flush()
        self.server = kafka_server

    async def make_broker(self) -> Broker[Any]:
        return KafkaBroker.from_url(self.server.url, partitions=1, drain=0.2)

    async def lapse(self, seconds: float) -> None:
        # No lease lapses by time here, and no delay of the suite is longer than this
        await asyncio.sleep(min(seconds, 0.4))

    async def write_garbage(self, source: str) -> bool:
        producer = Producer({"bootstrap.servers": self.server.bootstrap})
        producer.produce(source, b"\xff\x00", headers=[("type", b"t"), ("attempt", b"many")])
        return producer.flush(10.0) == 0

    async def test_a_delayed_message_is_waited_for_by_those_published_behind_it(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        """Not here: it waits in a topic of its own, beside those of its key, and comes when it is due."""
        first, second = (Message(type="t", body=body, key="a") for body in (b"1", b"2"))
        await self.take(broker, keyed)  # the group is there: nothing is due before it is asked for
        await self.send(broker, source, first, delay=3.0)
        await self.send(broker, source, second)
        for body in (b"2", b"1"):
            taken = await self.one(broker, keyed)
            assert body == taken.message.body
            assert await self.settle(broker, taken, Ack())
