"""The client adapter: addresses, deadlines, scripts, broken connections, and replies that stay in step."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.clients.redis import ReplyError, Script
from penstock.clients.redis_address import RedisAddress
from penstock.clients.redis_py import RedisPyClient
from penstock.errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL, MissingExtra
from tests.servers.redis_server import Server
from tests.servers.redis_tls import TLSServer


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisPyClient]:
    client = RedisPyClient(RedisAddress.parse(redis_url))
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://h:1/2", "redis://h:1/2"),
        ("valkey://h", "valkey://h:6379/0"),
        ("valkeys://:pw@h", "valkeys://:***@h:6379/0"),
        ("rediss://user:secret@h:7/3?socket_timeout=1", "rediss://user:***@h:7/3"),
        ("redis://h?db=4&password=secret", "redis://h:6379/4"),
        ("redis://[::1]:7/0", "redis://[::1]:7/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, masked: str):
    address = RedisAddress.parse(url)
    assert masked == address.masked
    assert "secret" not in repr(address)
    assert "secret" not in repr(RedisStreamsBroker.from_url(url))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "",
        "http://h",
        "redis://h:port",
        "redis://h:99999",
        "redis://h/abc",
        "redis://h?db=x",
        "redis://user:12/3secret@h",
        "redis://user:secret@h:p",
        "redis://h?socket_timeout=secret",
        "redis://h?no_such_option=secret",
        "unix://",
    ],
)
def test_a_bad_address_is_refused_with_what_was_expected(url: str):
    with pytest.raises(InvalidURL, match="expected redis://") as caught:
        RedisStreamsBroker.from_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(MissingExtra, match=r"penstock\[redis\]"):
        RedisStreamsBroker.from_url("redis://localhost")


async def test_an_unreachable_server_is_a_lost_connection():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"redis://:secret@127.0.0.1:{nobody.getsockname()[1]}"
        broker = RedisStreamsBroker.from_url(url)
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1") as caught:
            await broker.open()
    assert "secret" not in str(caught.value)
    await broker.close()


async def test_a_server_that_does_not_answer_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}?socket_timeout=0.1&socket_connect_timeout=0.1"
        broker = RedisStreamsBroker.from_url(url)
        with pytest.raises(ConnectionFailed):
            await asyncio.wait_for(broker.open(), 5)
        await broker.close()


async def test_a_wrong_password_and_a_missing_permission_are_told(redis_url: str, shared_server: Server):
    shared_server.call("ACL", "SETUSER", "poor", "on", ">right", "~*", "+ping", "+client")
    try:
        for password, command in (("wrong-secret", "PING"), ("right", "FLUSHALL")):
            client = RedisPyClient(RedisAddress.parse(redis_url.replace("://", f"://poor:{password}@")))
            with pytest.raises(AccessDenied) as caught:
                await client.call(command)
            assert password not in str(caught.value)
            await client.close()
    finally:
        shared_server.call("ACL", "DELUSER", "poor")


async def test_replies_come_in_order_with_errors_as_values(client: RedisPyClient):
    replies = await client.many(
        [("SET", "a", 1), ("LPUSH", "a", 2), ("GET", "a"), ("GET", "none"), ("LRANGE", "l", 0, 1)]
    )
    assert [b"OK", b"1", None, []] == [replies[i] for i in (0, 2, 3, 4)]
    assert isinstance(replies[1], ReplyError)
    assert "WRONGTYPE" == replies[1].code
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await client.call("LPUSH", "a", 2)
    assert b"1" == await client.call("GET", "a")


async def test_a_big_batch_is_written_while_its_replies_are_read(client: RedisPyClient):
    value = b"x" * 1_000_000
    replies = await client.many([("ECHO", value)] * 30)
    assert [value] * 30 == replies


async def test_a_script_is_sent_whole_only_when_it_is_unknown(client: RedisPyClient, shared_server: Server):
    script = Script("test", "return {KEYS[1], ARGV[1]}")
    for _ in range(2):
        assert [b"k", b"v"] == await client.run(script, ["k"], ["v"])
        shared_server.call("SCRIPT", "FLUSH")


async def test_a_connection_killed_while_idle_is_not_used_again(client: RedisPyClient, shared_server: Server):
    for _ in range(5):
        assert b"PONG" == (await client.call("ECHO", "PONG"))
        shared_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_a_cancelled_call_costs_its_connection_and_not_the_order_of_replies(client: RedisPyClient):
    for n in range(20):
        call = asyncio.create_task(client.many([("ECHO", f"lost {n}")] * 100))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert f"kept {n}".encode() == await client.call("ECHO", f"kept {n}")


async def test_concurrent_calls_get_their_own_replies(client: RedisPyClient):
    replies = await asyncio.gather(*[client.call("ECHO", str(n)) for n in range(200)])
    assert [str(n).encode() for n in range(200)] == replies


async def test_a_call_that_blocks_is_cut_off_by_the_deadline(redis_url: str):
    client = RedisPyClient(RedisAddress.parse(redis_url), timeout=0.1)
    with pytest.raises(ConnectionFailed, match="did not answer in time"):
        await client.call("BLPOP", "nothing", 5)
    assert b"x" == await client.call("ECHO", "x")
    dedicated = client.dedicated()
    assert await dedicated.call("BLPOP", "nothing", 0.3, wait=0.3) is None
    await dedicated.close()
    await client.close()


async def test_an_error_reply_does_not_cost_a_dedicated_connection(client: RedisPyClient):
    dedicated = client.dedicated()
    first = await dedicated.call("CLIENT", "ID")
    with pytest.raises(BrokerError, match="NOGROUP"):
        await dedicated.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    assert first == await dedicated.call("CLIENT", "ID") == dedicated.id
    await dedicated.close()


async def test_a_server_that_comes_back_is_found_again(durable_server: object):
    from tests.servers.redis_server import OwnServer

    assert isinstance(durable_server, OwnServer)
    client = RedisPyClient(RedisAddress.parse(durable_server.url))
    await client.call("SET", "a", "1")
    durable_server.kill()
    with pytest.raises(ConnectionFailed):
        await client.call("GET", "a")
    durable_server.start()
    assert b"1" == await client.call("GET", "a")
    await client.close()


async def test_a_tls_connection_that_the_server_closes_under_a_wait_says_so_and_is_made_anew(tls_server: TLSServer):
    client = RedisPyClient(RedisAddress.parse(tls_server.url))
    dedicated = client.dedicated()
    for _ in range(5):
        ident = await dedicated.call("CLIENT", "ID")
        waiting = asyncio.create_task(dedicated.call("BLPOP", "nothing", 10, wait=10))
        await asyncio.sleep(0.01)
        await client.call("CLIENT", "KILL", "ID", ident)
        with pytest.raises(ConnectionFailed):
            await waiting
    assert b"x" == await dedicated.call("ECHO", "x")
    await dedicated.close()
    await client.close()


async def test_a_tls_connection_whose_close_is_cancelled_does_not_wait_for_the_servers_goodbye(tls_server: TLSServer):
    client = RedisPyClient(RedisAddress.parse(tls_server.url))
    await client.call("PING")
    socket = client._free[0]._writer.get_extra_info("socket")
    with tls_server.frozen():
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0)
        assert -1 == socket.fileno()
