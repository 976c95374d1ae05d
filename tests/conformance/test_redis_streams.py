"""The delivery contract on Redis and Valkey Streams. What is peculiar to the driver is in ``tests/unit/test_redis_*``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.broker import Broker, Retention, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.brokers.redis_streams.events import EventsDialect
from penstock.clients.redis_cluster import SLOTS, slot_of
from penstock.message import Message
from penstock.outcome import Ack
from penstock.testing.conformance import BrokerConformance
from tests.servers.redis_cluster import OwnCluster
from tests.servers.redis_sentinel import OwnSentinels
from tests.servers.redis_server import Server
from tests.servers.redis_tls import TLSServer


class _RedisStreams(BrokerConformance):
    """``url``: what the broker is opened with; ``servers``: the primaries behind it."""

    url: str
    servers: Sequence[Server]

    async def make_broker(self) -> Broker[Any]:
        return RedisStreamsBroker.from_url(self.url)

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        return RedisStreamsBroker.from_url(self.url, retention=retention, **limits)

    async def lapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # leases are the server's, and it has a clock of its own

    async def break_connections(self, broker: Broker[Any]) -> bool:
        for server in self.servers:
            server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return True

    async def forget_everything(self) -> bool:
        for server in self.servers:
            server.call("FLUSHALL")
        return True

    async def delete_entry(self, source: str, message: Message) -> bool:
        self._server_of(source).call("XDEL", source, message.id)
        return True

    async def write_garbage(self, source: str) -> bool:
        self._server_of(source).call("XADD", source, "*", "headers", "{no json", "payload", b"\xff\x00")
        return True

    async def test_a_delayed_message_is_waited_for_by_those_published_behind_it(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        """Not here: it is beside the stream, where no group sees it, and takes its place when it is due."""
        self.need(broker, "keyed")
        first, second, third = (Message(type="t", body=body, key="a") for body in (b"1", b"2", b"3"))
        await self.send(broker, source, first, delay=0.3)
        await self.send(broker, source, second)
        taken = await self.one(broker, keyed)
        await self.lapse(0.35)
        await self.promote(broker, keyed)
        await self.send(broker, source, third)
        for body in (b"2", b"1", b"3"):
            assert body == taken.message.body
            assert await self.settle(broker, taken, Ack())
            taken = await self.one(broker, keyed) if body != b"3" else taken

    def _server_of(self, source: str) -> Server:
        return self.servers[slot_of(source) * len(self.servers) // SLOTS]  # shares of a cluster are in order


class _Single(_RedisStreams):
    kind: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        server: Server = request.getfixturevalue(f"{self.kind}_server")
        server.flush()
        self.url, self.servers = server.url, [server]


class _Cluster(_RedisStreams):
    kind: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        cluster: OwnCluster = request.getfixturevalue(f"{self.kind}_cluster")
        cluster.flush()
        self.url, self.servers = cluster.url, cluster.primaries


class _Sentinel(_RedisStreams):
    kind: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        sentinels: OwnSentinels = request.getfixturevalue(f"{self.kind}_sentinels")
        sentinels.primary.flush()
        self.url, self.servers = sentinels.url, [sentinels.primary]


class TestRedis(_Single):
    kind = "redis"


class TestValkey(_Single):
    kind = "valkey"


class TestRedisInTheEventsDialect(TestRedis):
    async def make_broker(self) -> Broker[Any]:
        return RedisStreamsBroker.from_url(self.url, dialect=EventsDialect())

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        return RedisStreamsBroker.from_url(self.url, dialect=EventsDialect(), retention=retention, **limits)

    async def write_garbage(self, source: str) -> bool:
        self._server_of(source).call("XADD", source, "*", "data", "{no json")
        return True


class TestNewRedis(_Single):
    """A Redis 8.2 or newer, which no package of Debian 12 brings: the one that PENSTOCK_TEST_NEW_REDIS_URL names."""

    kind = "new_redis"


class TestRedisCluster(_Cluster):
    kind = "redis"


class TestValkeyCluster(_Cluster):
    kind = "valkey"


class TestValkeyClusterInTheEventsDialect(TestValkeyCluster):
    make_broker = TestRedisInTheEventsDialect.make_broker
    make_retaining = TestRedisInTheEventsDialect.make_retaining
    write_garbage = TestRedisInTheEventsDialect.write_garbage


class TestRedisSentinel(_Sentinel):
    kind = "redis"


class TestValkeySentinel(_Sentinel):
    kind = "valkey"


class TestRedisWithTLSAndAUserOfFewRights(_RedisStreams):
    @pytest.fixture(autouse=True)
    def _server(self, tls_server: TLSServer) -> None:
        tls_server.flush()
        self.url, self.servers = tls_server.restricted_url, [tls_server]


class _Glide(_Single):
    @pytest.fixture(autouse=True)
    def _by_glide(self, _server: None, glide_installed: None) -> None:
        self.url = self.url.replace("redis", "glide", 1)


class _GlideCluster(_Cluster):
    @pytest.fixture(autouse=True)
    def _by_glide(self, _server: None, glide_installed: None) -> None:
        self.url = self.url.replace("redis", "glide", 1)


class TestGlideRedis(_Glide):
    kind = "redis"


class TestGlideValkey(_Glide):
    kind = "valkey"


class TestGlideRedisCluster(_GlideCluster):
    kind = "redis"


class TestGlideValkeyCluster(_GlideCluster):
    kind = "valkey"


class TestGlideWithTLSAndAUserOfFewRights(TestRedisWithTLSAndAUserOfFewRights):
    @pytest.fixture(autouse=True)
    def _by_glide(self, _server: None, glide_installed: None) -> None:
        self.url = self.url.replace("rediss", "glides", 1)
