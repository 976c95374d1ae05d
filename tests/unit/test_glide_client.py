"""The adapter for valkey-glide: addresses, deadlines, replies as the server sent them, its thread, lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.clients.opening import redis_client
from penstock.clients.redis import RedisClient, ReplyError, Script, code_of
from penstock.clients.redis_address import RedisAddress
from penstock.clients.redis_py import RedisPyClient
from penstock.errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL, MissingExtra
from tests.conftest import started
from tests.servers.redis_cluster import OwnCluster
from tests.servers.redis_server import OwnServer, Server
from tests.servers.redis_tls import TLSServer
from tests.unit.test_redis_topologies import _eventually, _move, _stream_on

if TYPE_CHECKING:
    from penstock.clients.glide import GlideClient

pytestmark = pytest.mark.usefixtures("glide_installed")


def client_of(url: str, **patience: float) -> GlideClient:
    from penstock.clients.glide import GlideClient

    return GlideClient(RedisAddress.parse(url.replace("redis", "glide", 1)), **patience)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[GlideClient]:
    client = client_of(redis_url)
    yield client
    await client.close()


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("glide://localhost", "glide://localhost:6379/0"),
        ("glides://user:secret@h:7/3?socket_timeout=1&ssl_cert_reqs=none", "glides://user:***@h:7/3"),
        ("glide://h?db=4&password=secret&client_name=me", "glide://h:6379/4"),
        ("glide+cluster://:secret@a:1,b:2", "glide+cluster://:***@a:1,b:2"),
        ("glides+cluster://a:1", "glides+cluster://a:1"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, masked: str):
    client = redis_client(url)
    assert masked == client.url
    assert "Glide" in repr(client)
    assert "secret" not in repr(client)


@pytest.mark.parametrize(
    "url",
    [
        "glide://h?no_such_option=secret",
        "glide://h?ssl_ca_certs=/secret",
        "glide://h?socket_timeout=secret",
        "glide://secret@h",
        "glides://h?ssl_cert_reqs=secret",
        "glides://h?ssl_check_hostname=secret",
        "glides://:secret@h?ssl_ca_certs=/nowhere",
        "glide+cluster://h?no_such_option=secret",
        "glide+sentinel://h/secret",
    ],
)
def test_a_bad_address_is_refused_with_what_was_expected(url: str):
    with pytest.raises(InvalidURL, match="expected redis://") as caught:
        RedisStreamsBroker.from_url(url)
    assert "secret" not in str(caught.value).replace("://secret@", "")
    assert caught.value.__cause__ is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "glide", None)
    for url in ("glide://localhost", "glides+cluster://localhost"):
        with pytest.raises(MissingExtra, match=r"valkey-glide is not installed.*penstock\[glide\]"):
            RedisStreamsBroker.from_url(url)


# -------------------------------------------------------------------------------------------------------------- replies

ASKED = [
    ("SET", "text", "1"),
    ("SET", "text", "2", "NX"),
    ("GET", "text"),
    ("GET", "none"),
    ("EXISTS", "text"),
    ("EXPIRE", "text", 100),
    ("PEXPIRE", "none", 100),
    ("HSET", "hash", "field", "value"),
    ("HGETALL", "hash"),
    ("HVALS", "hash"),
    ("HVALS", "none"),
    ("HEXISTS", "hash", "field"),
    ("ZADD", "set", 1.5, "a", 2, "b"),
    ("ZRANGE", "set", 0, -1, "WITHSCORES"),
    ("ZRANGEBYSCORE", "set", 0, 5, "WITHSCORES"),
    ("ZSCORE", "set", "a"),
    ("ZSCORE", "set", "b"),
    ("SADD", "members", "one"),
    ("SMEMBERS", "members"),
    ("XADD", "stream", "1-1", "f", "v", "f", "again", b"\xff", b"\x00"),
    ("XADD", "stream", "1-2", "f", "v"),
    ("XGROUP", "CREATE", "stream", "g", "0"),
    ("XGROUP", "CREATE", "stream", "g", "0"),
    ("XREADGROUP", "GROUP", "g", "me", "COUNT", 5, "STREAMS", "stream", ">"),
    ("XREADGROUP", "GROUP", "g", "me", "COUNT", 5, "STREAMS", "stream", ">"),
    ("XDEL", "stream", "1-2"),
    ("XREADGROUP", "GROUP", "g", "me", "COUNT", 5, "STREAMS", "stream", "0"),
    ("XREADGROUP", "GROUP", "none", "me", "STREAMS", "stream", ">"),
    ("XREAD", "STREAMS", "stream", "0"),
    ("XRANGE", "stream", "-", "+"),
    ("XREVRANGE", "stream", "+", "-", "COUNT", 1),
    ("XRANGE", "none", "-", "+"),
    ("XPENDING", "stream", "g"),
    ("XINFO", "GROUPS", "stream"),
    ("XINFO", "STREAM", "stream"),
    ("XINFO", "GROUPS", "none"),
    ("XACK", "stream", "g", "1-1"),
    ("XACKDEL", "stream", "g", "IDS", 1, "1-1"),
    ("SCAN", 0, "COUNT", 1000, "TYPE", "stream"),
    ("CONFIG", "GET", "maxmemory-policy"),
    ("CLIENT", "UNBLOCK", 9999999),
    ("ROLE",),
    ("ACL", "WHOAMI"),
    ("LPUSH", "text", "1"),
    ("NOSUCH",),
    ("EVALSHA", "0" * 40, 0),
    ("EVAL", "return {1, 'a', false, true, {2, {}}, redis.status_reply('OK'), redis.status_reply('FINE')}", 0),
    ("EVAL", "return redis.call('XRANGE', 'stream', '-', '+')", 0),
    ("EVAL", "return redis.error_reply('MINE of that kind')", 0),
    ("EVAL", "return redis.call('LPUSH', 'text', 1)", 0),
    ("SCRIPT", "EXISTS", "0" * 40),
    ("TYPE", "stream"),
    ("DEL", "text", "none"),
]


async def test_replies_and_errors_are_those_of_redis_py(client: GlideClient, redis_url: str, shared_server: Server):
    other = RedisPyClient(RedisAddress.parse(redis_url))

    def shown(replies: list[object]) -> list[object]:
        return [
            (type(reply), code_of(reply), str(reply)) if isinstance(reply, Exception) else reply for reply in replies
        ]

    expected = shown(await other.many(ASKED))
    await other.close()
    for exchange in (client.many, lambda commands: _one_by_one(client, commands)):
        shared_server.flush()
        for command, theirs, ours in zip(ASKED, expected, shown(await exchange(ASKED)), strict=True):
            assert (command, theirs) == (command, ours)


async def _one_by_one(client: GlideClient, commands: list[tuple[object, ...]]) -> list[object]:
    replies: list[object] = []
    for command in commands:
        try:
            replies.append(await client.call(*command))
        except BrokerError as error:
            replies.append(error)
    return replies


async def test_a_script_is_sent_whole_only_when_it_is_unknown(client: GlideClient, shared_server: Server):
    script = Script("test", "return {KEYS[1], ARGV[1]}")
    for _ in range(2):
        assert [b"k", b"v"] == await client.run(script, ["k"], ["v"])
        shared_server.call("SCRIPT", "FLUSH")


async def test_a_big_batch_comes_back_whole(client: GlideClient):
    value = b"x" * 1_000_000
    assert [value] * 30 == await client.many([("ECHO", value)] * 30)


async def test_arguments_are_written_as_by_redis_py(client: GlideClient, redis_url: str):
    given = ("ü", 1.5, 1e300, -3, b"\x00", "")
    other = RedisPyClient(RedisAddress.parse(redis_url))
    commands = [("ECHO", argument) for argument in given]
    assert await other.many(commands) == await client.many(commands)
    with pytest.raises(UnicodeEncodeError):
        await client.call("ECHO", "\udcff")
    await other.close()


async def test_concurrent_calls_get_their_own_replies(client: GlideClient):
    replies = await asyncio.gather(*[client.call("ECHO", str(n)) for n in range(2000)])
    assert [str(n).encode() for n in range(2000)] == replies


async def test_a_thousand_cancelled_calls_take_nobodys_reply(client: GlideClient):
    dice = random.Random(7)
    for n in range(1000):
        call = asyncio.create_task(client.many([("ECHO", f"lost {n}")] * dice.randrange(1, 20)))
        await asyncio.sleep(dice.choice((0, 0, 0.0001, 0.0005)))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert {f"lost {n}".encode()} == set(await call)
        if n % 10 == 0:
            assert f"kept {n}".encode() == await client.call("ECHO", f"kept {n}")
    assert b"kept" == await client.call("ECHO", "kept")


# ------------------------------------------------------------------------------------------------- waiting and failing


async def test_a_call_that_blocks_is_cut_off_by_the_deadline(redis_url: str):
    client = client_of(redis_url, timeout=0.1)
    with pytest.raises(ConnectionFailed, match="did not answer in time"):
        await client.call("BLPOP", "nothing", 5)
    assert b"x" == await client.call("ECHO", "x")
    dedicated = client.dedicated()
    assert await dedicated.call("BLPOP", "nothing", 0.3, wait=0.3) is None
    await dedicated.close()
    await client.close()


async def test_a_blocking_reader_holds_up_nobody(client: GlideClient):
    dedicated = client.dedicated()
    await dedicated.call("PING")
    reading = asyncio.create_task(dedicated.call("BLPOP", "list", 30, wait=30))
    assert b"PONG" == await asyncio.wait_for(client.call("PING"), 5)
    await client.call("LPUSH", "list", "x")
    assert [b"list", b"x"] == await reading
    await dedicated.close()


async def test_a_wait_can_be_ended_from_elsewhere(client: GlideClient, shared_server: Server):
    dedicated = client.dedicated()
    await dedicated.call("PING")
    reading = asyncio.create_task(dedicated.call("BLPOP", "list", 30, wait=30))
    while not shared_server.call("INFO", "clients")["blocked_clients"]:
        await asyncio.sleep(0.01)
    await client.unblock(dedicated.id)
    assert await reading is None
    await client.unblock(999_999_999)
    await dedicated.close()


async def test_closing_or_cancelling_a_reader_ends_its_wait_on_the_server(client: GlideClient, shared_server: Server):
    for way in ("close", "cancel"):
        dedicated = client.dedicated()
        await dedicated.call("PING")
        reading = asyncio.create_task(dedicated.call("BLPOP", "list", 30, wait=30))
        while not shared_server.call("INFO", "clients")["blocked_clients"]:
            await asyncio.sleep(0.01)
        if way == "close":
            await dedicated.close()
        else:
            reading.cancel()
        with pytest.raises((ConnectionFailed, asyncio.CancelledError)):
            await reading
        while shared_server.call("INFO", "clients")["blocked_clients"]:
            await asyncio.sleep(0.01)
        assert b"PONG" == await dedicated.call("ECHO", "PONG")
        await dedicated.close()
        await dedicated.close()


async def test_an_error_reply_does_not_cost_a_dedicated_connection(client: GlideClient):
    dedicated = client.dedicated()
    first = await dedicated.call("CLIENT", "ID")
    with pytest.raises(ReplyError, match="NOGROUP"):
        await dedicated.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    assert first == await dedicated.call("CLIENT", "ID") == dedicated.id
    await dedicated.close()


async def test_an_unreachable_server_is_a_lost_connection():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        broker = RedisStreamsBroker.from_url(f"glide://:secret@127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1.*refused") as caught:
            await broker.open()
    assert "secret" not in str(caught.value)
    await broker.close()


async def test_a_server_that_does_not_answer_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"glide://127.0.0.1:{silent.getsockname()[1]}?socket_timeout=0.1&socket_connect_timeout=0.1"
        broker = RedisStreamsBroker.from_url(url)
        with pytest.raises(ConnectionFailed):
            await asyncio.wait_for(broker.open(), 5)
        await broker.close()


async def test_a_wrong_password_and_a_missing_permission_are_told(redis_url: str, shared_server: Server):
    shared_server.call("ACL", "SETUSER", "poor", "on", ">right", "~*", "+ping", "+client", "+info", "+eval")
    try:
        for password, command in (
            ("wrong-secret", ("PING",)),
            ("right", ("FLUSHALL",)),
            ("right", ("EVAL", "return redis.call('FLUSHALL')", 0)),
        ):
            client = client_of(redis_url.replace("://", f"://poor:{password}@"))
            with pytest.raises(AccessDenied) as caught:
                await client.call(*command)
            assert password not in str(caught.value)
            await client.close()
        shared_server.call("ACL", "SETUSER", "poor", "-info")
        client = client_of(redis_url.replace("://", "://poor:right@"))
        with pytest.raises(AccessDenied, match=r"grant \+info"):
            await client.call("PING")
        await client.close()
    finally:
        shared_server.call("ACL", "DELUSER", "poor")


async def test_a_connection_killed_while_idle_is_no_failure(client: GlideClient, shared_server: Server):
    dedicated = client.dedicated()
    for _ in range(5):
        assert b"PONG" == await client.call("ECHO", "PONG")
        assert b"PONG" == await dedicated.call("ECHO", "PONG")
        shared_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.05)  # it learns of it when the system tells it
    await dedicated.close()


async def test_what_may_have_been_executed_is_not_sent_again(client: GlideClient, shared_server: Server):
    await client.call("PING")
    slow = "for i = 1, 3e7 do end return redis.call('INCR', 'runs')"
    running = asyncio.create_task(client.call("EVAL", slow, 1, "runs"))
    await asyncio.sleep(0.05)
    shared_server.call(
        "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
    )  # served after the script, before its reply is read
    with contextlib.suppress(ConnectionFailed):
        await running
    assert b"1" == await client.call("GET", "runs")


async def test_a_server_that_comes_back_is_found_again(durable_server: OwnServer):
    client = client_of(durable_server.url, timeout=1.0)
    await client.call("SET", "a", "1")
    durable_server.kill()
    with pytest.raises(ConnectionFailed):
        await client.call("GET", "a")
    with pytest.raises(ConnectionFailed, match="refused"):
        await client.call("GET", "a")
    durable_server.start()
    assert b"1" == await client.call("GET", "a")
    await client.close()
    await client.close()
    assert b"1" == await client.call("GET", "a")
    await client.close()


# --------------------------------------------------------------------------------------------------- threads and loops


async def test_a_fork_in_another_thread_works_while_this_loop_is_blocked(client: GlideClient):
    await client.call("PING")
    done = threading.Event()

    async def there() -> None:
        fork = client.fork()
        for _ in range(20):
            await fork.call("PING")
        await fork.close()
        done.set()

    thread = threading.Thread(target=lambda: asyncio.run(there()))
    thread.start()
    assert done.wait(10), "the fork heard nothing while the first loop slept"
    thread.join()
    assert b"PONG" == await client.call("ECHO", "PONG")


def test_the_client_outlives_the_loop_that_used_it_first(redis_url: str):
    async def once(client: GlideClient) -> None:
        assert b"PONG" == await client.call("ECHO", "PONG")
        await client.close()

    client = client_of(redis_url)
    asyncio.run(once(client))
    asyncio.run(once(client))


def test_a_process_that_never_closed_its_client_ends_in_silence(redis_url: str):
    program = f"""
import asyncio
from penstock.clients.opening import redis_client

async def main():
    client = redis_client({redis_url.replace("redis", "glide", 1)!r})
    print(await client.call("ECHO", "hello"))
    asyncio.create_task(client.dedicated().call("BLPOP", "nothing", 60, wait=60))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
    started = time.monotonic()
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (0, "b'hello'\n", "") == (done.returncode, done.stdout, done.stderr)
    assert time.monotonic() - started < 30


async def test_a_certificate_is_checked(tls_server: TLSServer):
    url = tls_server.url.replace("redis", "glide", 1)
    address, _, _ = url.partition("?")
    for good in (url, f"{address}?ssl_cert_reqs=none"):
        client = redis_client(good)
        assert b"PONG" == await client.call("ECHO", "PONG")
        await client.close()
    unknown = redis_client(address)
    with pytest.raises(ConnectionFailed, match="certificate"):
        await unknown.call("PING")
    await unknown.close()


# ------------------------------------------------------------------------------------------------------------- clusters


@pytest.fixture
def cluster(server_kind: str) -> Iterator[OwnCluster]:
    """A cluster that the test may hurt: a replica waits for the first primary to die."""
    yield from started(server_kind, partial(OwnCluster, replicas=1))


@pytest.fixture
async def all_nodes(cluster: OwnCluster) -> AsyncIterator[RedisClient]:
    client = redis_client(cluster.url.replace("redis", "glide", 1), timeout=2.0)
    yield client
    await client.close()


async def test_many_commands_reach_every_node_and_their_replies_come_in_order(all_nodes: RedisClient):
    names = [f"key-{n}" for n in range(300)]
    primaries = await all_nodes.primaries()
    assert [b"OK"] * 300 == await all_nodes.many([("SET", name, name) for name in names])
    assert [name.encode() for name in names] == await all_nodes.many([("GET", name) for name in names])
    assert 300 == sum([await each.call("DBSIZE") for each in primaries])
    assert ["GlideClient"] * 3 == [type(each).__name__ for each in primaries]


async def test_a_slot_that_was_moved_is_followed(cluster: OwnCluster, all_nodes: RedisClient):
    await all_nodes.call("SET", "k", "1")
    _move(cluster, "k", finish=True)
    assert b"1" == await all_nodes.call("GET", "k")
    assert [b"1", b"OK"] == await all_nodes.many([("GET", "k"), ("SET", "elsewhere", "1")])


async def test_a_slot_that_is_being_moved_is_followed_for_each_command(cluster: OwnCluster, all_nodes: RedisClient):
    await all_nodes.call("XGROUP", "CREATE", "k", "g", "0", "MKSTREAM")
    reader = all_nodes.dedicated()
    await reader.call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "k", ">")
    _move(cluster, "k", finish=False)
    ids = await all_nodes.many([("XADD", "k", "*", "n", n) for n in range(3)])
    ((_, entries),) = await reader.call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "k", ">")
    assert ids == [ident for ident, _ in entries]
    await reader.close()


async def test_when_a_node_dies_the_others_keep_their_fate_and_its_replica_takes_over(
    cluster: OwnCluster, all_nodes: RedisClient
):
    lost, kept = _stream_on(cluster, 0), _stream_on(cluster, 1)
    commands = [("XADD", name, "*", "a", "b") for name in (kept, lost, kept)]
    assert [bytes] * 3 == [type(reply) for reply in await all_nodes.many(commands)]
    cluster.primaries[0].kill()
    assert [bytes, ConnectionFailed, bytes] == [type(reply) for reply in await all_nodes.many(commands)]
    assert bytes is type(await _eventually(lambda: all_nodes.call(*commands[1])))
