"""The fault proxy before a real Redis: each fault as a client sees it, and the way back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import redis.asyncio as redis
from redis.exceptions import RedisError

from penstock import ConnectionFailed, Message, open_broker
from penstock.broker import Outgoing, Subscription
from penstock.testing import FaultProxy
from tests.servers.redis_server import Server


@pytest.fixture
async def proxy(redis_server: Server) -> AsyncIterator[FaultProxy]:
    redis_server.flush()
    address = urlsplit(redis_server.url)
    assert address.hostname is not None
    assert address.port is not None
    async with FaultProxy(address.hostname, address.port) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[redis.Redis]:
    client = redis.Redis(port=proxy.port, socket_timeout=0.5, socket_connect_timeout=0.5, single_connection_client=True)
    client.connection_pool.connection_kwargs["retry"] = None
    yield client
    await client.aclose()


async def test_without_a_fault_it_is_not_noticed(proxy: FaultProxy, client: redis.Redis) -> None:
    value = b"x" * 1_000_000
    await client.set("k", value)
    assert await client.get("k") == value
    assert proxy.connections == proxy.accepted == 1


@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_a_broken_connection_is_an_error_and_the_next_one_works(
    proxy: FaultProxy, client: redis.Redis, fault: str
) -> None:
    await client.ping()
    getattr(proxy, fault)()
    while proxy.connections:
        await asyncio.sleep(0)
    fresh = redis.Redis(port=proxy.port)
    assert await fresh.ping()
    await fresh.aclose()
    assert proxy.accepted == 2


async def test_a_refused_connection_is_refused_and_the_port_comes_back(proxy: FaultProxy) -> None:
    port = proxy.port
    proxy.refuse()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.listen()
    assert proxy.port == port
    client = redis.Redis(port=port)
    assert await client.ping()
    await client.aclose()


async def test_into_a_black_hole_everything_goes_and_nothing_comes_back_until_it_heals(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.blackhole()
    writer.write(b"PING\r\n")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.1)
    proxy.heal()
    assert await asyncio.wait_for(reader.readline(), 5) == b"+PONG\r\n"
    writer.close()


async def test_a_client_with_a_deadline_leaves_the_black_hole(proxy: FaultProxy, client: redis.Redis) -> None:
    await client.ping()
    proxy.blackhole()
    with pytest.raises(RedisError):
        await client.ping()


async def test_a_half_closed_connection_says_nothing_more_and_still_listens(
    proxy: FaultProxy, redis_server: Server
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    proxy.half_close()
    assert await reader.read() == b""
    writer.write(b"SET half closed\r\n")
    deadline = time.monotonic() + 5
    while redis_server.call("GET", "half") != b"closed":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    writer.close()


async def test_latency_and_a_narrow_line_cost_the_time_they_should(proxy: FaultProxy) -> None:
    client = redis.Redis(port=proxy.port)
    await client.ping()
    proxy.latency(0.1)
    began = time.monotonic()
    await client.ping()
    assert time.monotonic() - began >= 0.2  # there and back
    proxy.heal()
    proxy.slow(20_000)
    began = time.monotonic()
    await client.set("k", b"x" * 5_000)
    assert 0.2 <= time.monotonic() - began < 5
    await client.aclose()


async def test_a_broker_behind_it_fails_loses_nothing_and_comes_back(proxy: FaultProxy) -> None:
    broker = open_broker(f"redis://127.0.0.1:{proxy.port}/0")
    subscription = Subscription(source="s")
    try:
        await broker.open()
        await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"1"))])
        proxy.refuse()
        with pytest.raises(ConnectionFailed):
            await broker.fetch(subscription, 1, 0.0)
        await proxy.listen()
        found = await broker.fetch(subscription, 1, 1.0)
        assert [delivery.message.body for delivery in found] == [b"1"]
    finally:
        await broker.close()


async def test_a_server_that_is_not_there_is_told_to_the_client() -> None:
    async with FaultProxy("127.0.0.1", 9) as proxy:
        client = redis.Redis(port=proxy.port)
        with pytest.raises(RedisError):
            await client.ping()
        await client.aclose()


async def test_its_end_leaves_no_connection_open_however_new(redis_server: Server) -> None:
    address = urlsplit(redis_server.url)
    for turns in range(6):
        async with FaultProxy(str(address.hostname), address.port or 0) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            for _ in range(turns):
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert [] == [task for task in asyncio.all_tasks() if "_accept" in str(task.get_coro())]
    gc.collect()  # an open socket would warn now, and warnings are errors
