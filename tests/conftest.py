"""Fixtures for all tests: real Redis and Valkey servers, started when the first test asks for one.

``redis_server``, ``valkey_server``: one of each for the whole run; for tests that need that very server.
``redis_url``: runs the test on both, each time with an empty database. What most tests want.
``durable_server``: both again, but a server of the test's own, to ``kill()``, ``restart()`` and ``start()``.
``kafka_server``: an Apache Kafka for the whole run.
``redis_cluster``, ``valkey_cluster``, ``redis_sentinels``, ``valkey_sentinels``, ``tls_server``: one for the whole run.
``postgres_server``, ``mysql_server``: one of each for the whole run, its tables dropped before each test that asks for
``sql_server``, which is both. ``durable_sql_server``: both again, but a server of the test's own.
``glide_installed``: for tests that need the client library valkey-glide.

A server that cannot be had skips the test and says why; with ``CI=true`` or ``PENSTOCK_REQUIRE_SERVERS=1`` it fails.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from asyncio import selector_events
from asyncio.selector_events import _SelectorSocketTransport
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from tests.servers import kafka_server as kafka
from tests.servers import sqs_server as sqs
from tests.servers.rabbitmq_server import OwnRabbitmq, RabbitmqServer, obtain_rabbitmq
from tests.servers.redis_cluster import OwnCluster
from tests.servers.redis_sentinel import OwnSentinels
from tests.servers.redis_server import OwnServer, Server, ServerUnavailableError, find_binary, obtain
from tests.servers.redis_tls import TLSServer
from tests.servers.sql_server import OwnMariaDB, OwnPostgres, SqlServer, obtain_mysql, obtain_postgres
from tests.servers.sqs_server import OwnSqsServer, SqsServer

S = TypeVar("S", OwnCluster, OwnSentinels, TLSServer)

HEAVY = ("end_to_end", "faults")  # folders whose tests load the machine: one after the other, and the longest first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which tests stay together when several processes share them: a class, a module; all the heavy ones."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        heavy = item.path.parent.name in HEAVY
        item.add_marker(pytest.mark.xdist_group("heavy" if heavy else item.nodeid.rpartition("::")[0]))
    items.sort(key=lambda item: item.path.parent.name not in HEAVY)


class _Born(_SelectorSocketTransport):
    """A connection that knows where it was made: one that nobody closed is collected in some later test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        frames, frame = list[str](), sys._getframe(1)
        while frame is not None and len(frames) < 16:
            frames.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            frame = frame.f_back  # type: ignore[assignment]
        self.born = f"{os.environ.get('PYTEST_CURRENT_TEST')}, {' < '.join(frames)}"
        super().__init__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{super().__repr__()} made in {self.born}"


selector_events._SelectorSocketTransport = _Born  # type: ignore[misc]


# The suite that we ship is made of assertions too: a failing one shows its values
pytest.register_assert_rewrite("penstock.testing")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    yield from _for_the_session("redis")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    yield from _for_the_session("valkey")


@pytest.fixture(scope="session")
def new_redis_server() -> Server:
    url = os.environ.get("PENSTOCK_TEST_NEW_REDIS_URL")
    if not url:
        pytest.skip("PENSTOCK_TEST_NEW_REDIS_URL names no Redis 8.2 or newer; Redis 7.0 and Valkey are always tested")
    return Server(url)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[kafka.KafkaServer]:
    try:
        server = kafka.obtain()
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[OwnCluster]:
    yield from started("redis", OwnCluster)


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[OwnCluster]:
    yield from started("valkey", OwnCluster)


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[OwnSentinels]:
    yield from started("redis", OwnSentinels)


@pytest.fixture(scope="session")
def valkey_sentinels() -> Iterator[OwnSentinels]:
    yield from started("valkey", OwnSentinels)


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TLSServer]:
    if shutil.which("openssl") is None:
        do_without(ServerUnavailableError("openssl, which makes the certificate, is not installed"))
    yield from started("redis", TLSServer)


@pytest.fixture(scope="session")
def sqs_server() -> Iterator[SqsServer]:
    """ElasticMQ, or moto where there is no Java."""
    yield from _sqs(sqs.obtain)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[SqsServer]:
    yield from _sqs(sqs.moto)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitmqServer]:
    """One for the whole run: each test takes a vhost of its own."""
    try:
        server = obtain_rabbitmq()
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server
    finally:
        if isinstance(server, OwnRabbitmq):
            server.stop()


@pytest.fixture(params=["redis", "valkey"])
def server_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def shared_server(request: pytest.FixtureRequest, server_kind: str) -> Server:
    """The session's server of this kind, emptied."""
    server: Server = request.getfixturevalue(f"{server_kind}_server")
    server.flush()
    return server


@pytest.fixture
def redis_url(shared_server: Server) -> str:
    return shared_server.url


@pytest.fixture
def durable_server(server_kind: str) -> Iterator[OwnServer]:
    try:
        server = OwnServer(find_binary(server_kind), durable=True)
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[SqlServer]:
    yield from _sql_for_the_session(obtain_postgres)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[SqlServer]:
    yield from _sql_for_the_session(obtain_mysql)


@pytest.fixture(params=["postgres", "mysql"])
def sql_server(request: pytest.FixtureRequest) -> Iterator[SqlServer]:
    """The session's server of this kind, without our tables before and after."""
    server: SqlServer = request.getfixturevalue(f"{request.param}_server")
    asyncio.run(server.wipe())
    yield server
    asyncio.run(server.wipe())


@pytest.fixture(params=[OwnPostgres, OwnMariaDB], ids=["postgres", "mysql"])
def durable_sql_server(request: pytest.FixtureRequest) -> Iterator[SqlServer]:
    try:
        server = request.param(durable=True)
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server.start()
    finally:
        server.stop()


def _sql_for_the_session(get: Callable[[], SqlServer]) -> Iterator[SqlServer]:
    try:
        server = get()
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server
    finally:
        if isinstance(server, OwnPostgres | OwnMariaDB):
            server.stop()


@pytest.fixture(scope="session")
def glide_installed() -> None:
    """Skips where there is no valkey-glide, such as on Alpine: it has no wheel for musl."""
    if importlib.util.find_spec("glide") is None:
        do_without(ServerUnavailableError("valkey-glide is not installed: pip install 'penstock[glide]'"))


def started(kind: str, make: Callable[[Path], S]) -> Iterator[S]:
    """Servers for as long as a fixture needs them."""
    try:
        servers = make(find_binary(kind))
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def _for_the_session(kind: str) -> Iterator[Server]:
    try:
        server = obtain(kind)
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server
    finally:
        if isinstance(server, OwnServer):
            server.stop()


def _sqs(start: Callable[[], SqsServer]) -> Iterator[SqsServer]:
    try:
        server = start()
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server
    finally:
        if isinstance(server, OwnSqsServer):
            server.stop()


def do_without(missing: ServerUnavailableError) -> NoReturn:
    """Skip, or where every server is required, fail."""
    required = os.environ.get("CI", "").lower() in {"1", "true"} or os.environ.get("PENSTOCK_REQUIRE_SERVERS") == "1"
    if required:
        pytest.fail(f"{missing}; a missing server is a failure here", pytrace=False)
    pytest.skip(str(missing))
