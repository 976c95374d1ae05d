"""The delivery contract on SQS. What is peculiar to the driver is in ``tests/unit/test_sqs_*.py``."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.broker import Broker, Settlement, Subscription
from penstock.brokers.sqs import SqsBroker
from penstock.errors import UnsupportedFeature
from penstock.message import Delivery
from penstock.outcome import Ack, DeadLetter, Release, Retry
from penstock.testing.conformance import BrokerConformance
from penstock.testing.conformance.harness import bodies, message, numbered
from penstock.testing.conformance.turns import of
from tests.conftest import do_without
from tests.servers.redis_server import ServerUnavailableError
from tests.servers.sqs_server import SqsServer

LOOKS = 3


class _Sqs(BrokerConformance):
    fifo = False
    lease = 3.0  # SQS counts whole seconds

    @pytest.fixture(autouse=True)
    def _server(self, sqs_server: SqsServer) -> None:
        if sqs_server.kind == "moto":  # minutes for what takes ElasticMQ seconds
            do_without(ServerUnavailableError("the suite needs ElasticMQ (java, mvn); its essentials run on moto"))
        sqs_server.flush()
        self.server = sqs_server

    async def make_broker(self) -> Broker[Any]:
        return SqsBroker.from_url(self.server.url, fifo=self.fifo)

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
        fifo = {"Attributes": {"FifoQueue": "true"}} if self.fifo else {}
        url = client.create_queue(QueueName=source + (".fifo" if self.fifo else ""), **fifo)["QueueUrl"]
        group = {"MessageGroupId": "garbage", "MessageDeduplicationId": uuid.uuid4().hex} if self.fifo else {}
        broken = {"penstock": {"DataType": "String", "StringValue": "{no json"}}
        client.send_message(QueueUrl=url, MessageBody="?", MessageAttributes=broken, **group)
        client.close()
        return True


class TestStandardQueues(_Sqs):
    """Every queue is a standard one."""


class TestFifoQueues(_Sqs):
    """Every queue is a FIFO queue: messages with one key wait for each other, whoever reads them."""

    fifo = True

    async def test_sizes_are_told(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        """A retry stays where it is, hidden: it is among the leased and not among the delayed."""
        assert isinstance(broker, SqsBroker)
        await self.send(broker, source, *numbered(6))
        dead, retried, _ = await self.take(broker, subscription, limit=3)
        await self.settle(broker, dead, DeadLetter("no"))
        await self.settle(broker, retried, Retry(60.0))
        stats = await broker.stats(source)
        assert (5, 0, 1) == (stats.size, stats.delayed, stats.dead)
        assert [("default", 2, 3)] == [(group.name, group.leased, group.lag) for group in stats.groups]

    async def test_equal_messages_retried_together_stay_distinct(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        """They have one key, so that later ones come when the earlier ones are done."""
        await self.send(broker, source, *[message(b"1", key="k")] * 12)
        found = await self.collect(broker, subscription, 1)
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Retry(0.0)) for d in found]))
        ids: set[str] = set()
        while len(ids) < 12:
            again = await self.collect(broker, subscription, 1)
            assert again
            ids |= {delivery.message.id for delivery in again}
            assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in again]))

    async def test_equal_messages_stay_distinct(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.test_equal_messages_retried_together_stay_distinct(broker, source, subscription)

    async def test_purging_takes_what_waits_for_its_turn_and_no_key_stays_blocked(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        """Nothing is purged while something is leased; when it is settled, all that waits goes, whatever its turn."""
        assert isinstance(broker, SqsBroker)
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1, 2))
        leased = {d.message.body: d for d in await self.collect(broker, by_key, 2)}
        with pytest.raises(UnsupportedFeature, match="leased"):
            await broker.purge(source)
        assert await self.settle(broker, leased[b"a1"], Ack())
        assert await self.settle(broker, leased[b"b1"], Release())
        assert 3 == await broker.purge(source)
        await self.send(broker, source, *of("a", 3), *of("b", 3))
        assert [b"a3", b"b3"] == sorted(bodies(await self.collect(broker, by_key, 2)))

    async def test_a_batch_larger_than_any_limit_arrives_whole(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        """Of a size that a FIFO queue of a test server can be asked for."""
        await self.send(broker, source, *numbered(250))
        found = await self.collect(broker, replace(subscription, lease=60.0), 250)
        assert sorted(str(n).encode() for n in range(250)) == sorted(bodies(found))
