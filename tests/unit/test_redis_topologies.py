"""Cluster and Sentinel, moving under our feet: slots that change hands, primaries that die, hosts that never answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
from redis.exceptions import RedisError

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.clients.opening import redis_client
from penstock.clients.redis import Command, RedisClient, ReplyError, error_of
from penstock.clients.redis_address import Host
from penstock.clients.redis_cluster import RedisClusterClient, key_of, slot_of
from penstock.clients.redis_sentinel import RedisSentinelClient
from penstock.errors import AccessDenied, ConnectionFailed, InvalidURL
from penstock.message import Message
from penstock.outcome import Retry
from tests.conftest import started
from tests.servers.redis_cluster import OwnCluster
from tests.servers.redis_sentinel import SERVICE, OwnSentinels
from tests.servers.redis_server import OwnServer

T = TypeVar("T")

PATIENCE = 30.0


@pytest.fixture
def cluster(server_kind: str) -> Iterator[OwnCluster]:
    """A cluster that the test may hurt: a replica waits for the first primary to die."""
    yield from started(server_kind, partial(OwnCluster, replicas=1))


@pytest.fixture
def calm_cluster(request: pytest.FixtureRequest, server_kind: str) -> OwnCluster:
    """The cluster of the whole run, emptied; it stays as it is."""
    cluster: OwnCluster = request.getfixturevalue(f"{server_kind}_cluster")
    cluster.flush()
    return cluster


@pytest.fixture
def sentinels(server_kind: str) -> Iterator[OwnSentinels]:
    yield from started(server_kind, OwnSentinels)


@pytest.fixture
async def client(cluster: OwnCluster) -> AsyncIterator[RedisClusterClient]:
    client = redis_client(cluster.url, timeout=2.0)
    assert isinstance(client, RedisClusterClient)
    yield client
    await client.close()


def test_slots_are_those_of_the_specification():
    assert 12739 == slot_of("123456789")
    assert slot_of("{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of("user1000")
    assert slot_of("foo{}{bar}") == slot_of(b"foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XADD", "s", "*", "a", "b"), "s"),
        (("XREADGROUP", "GROUP", "STREAMS", "o", "COUNT", 1, "STREAMS", "s", ">"), "s"),
        (("XREADGROUP", "GROUP", "g", "o", "COUNT", 1, "BLOCK", 5, "STREAMS", "s", ">"), "s"),
        (("EVALSHA", "abc", 2, "s", "t", "x"), "s"),
        (("EVAL", "return 1", 0), None),
        (("XGROUP", "CREATE", "s", "g", "$"), "s"),
        (("XINFO", "GROUPS", "s"), "s"),
        (("PING",), None),
    ],
)
def test_a_command_goes_where_its_first_key_is(command: tuple[str | int, ...], key: str | None):
    assert key == key_of(command)


async def test_many_commands_reach_every_node_and_their_replies_come_in_order(calm_cluster: OwnCluster):
    client = redis_client(calm_cluster.url)
    names = [f"key-{n}" for n in range(300)]
    assert 3 == len(await client.primaries())
    assert [b"OK"] * 300 == await client.many([("SET", name, name) for name in names])
    assert [name.encode() for name in names] == await client.many([("GET", name) for name in names])
    await client.close()


async def test_a_slot_that_was_moved_is_followed(cluster: OwnCluster, client: RedisClusterClient):
    await client.call("SET", "k", "1")
    _move(cluster, "k", finish=True)
    assert b"1" == await client.call("GET", "k")
    assert [b"1", b"OK"] == await client.many([("GET", "k"), ("SET", "elsewhere", "1")])


async def test_a_slot_that_is_being_moved_is_followed_for_each_command(cluster: OwnCluster, client: RedisClusterClient):
    await client.call("XGROUP", "CREATE", "k", "g", "0", "MKSTREAM")
    reader = client.dedicated()
    await reader.call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "k", ">")
    _move(cluster, "k", finish=False)
    ids = await client.many([("XADD", "k", "*", "n", n) for n in range(3)])
    ((_, entries),) = await reader.call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "k", ">")
    assert ids == [ident for ident, _ in entries]
    await reader.close()


async def test_a_seed_that_does_not_answer_is_passed_over(calm_cluster: OwnCluster):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        client = redis_client(f"redis+cluster://127.0.0.1:{port},127.0.0.1:{calm_cluster.primaries[2].port}")
        assert b"OK" == await client.call("SET", "k", "1")
        await client.close()


async def test_a_node_of_a_cluster_addressed_alone_says_how_to_address_it(calm_cluster: OwnCluster):
    one = redis_client(calm_cluster.primaries[0].url)
    with pytest.raises(ReplyError, match=r"write redis\+cluster://"):
        await one.call("GET", _stream_on(calm_cluster, 1))
    await one.close()


async def test_when_a_node_dies_the_others_answer_and_its_replica_takes_over(cluster: OwnCluster):
    broker = RedisStreamsBroker.from_url(cluster.url, timeout=2.0)
    lost, kept = _stream_on(cluster, 0), _stream_on(cluster, 1)
    waiting = Subscription(source=lost, group="g", lease=60.0)
    await broker.fetch(waiting, 0, 0)
    reading = asyncio.create_task(broker.fetch(waiting, 10, PATIENCE))
    before = await broker.publish([_message(kept)])
    cluster.primaries[0].kill()
    with pytest.raises(ConnectionFailed):
        await reading
    assert 1 == len(await broker.publish([_message(kept)]))
    assert before
    ids = await _eventually(lambda: broker.publish([_message(lost)]))
    found = await _eventually(lambda: broker.fetch(waiting, 10, PATIENCE))
    assert ids == [delivery.message.id for delivery in found]
    await broker.close()


async def test_the_fate_of_each_message_is_told_when_one_node_is_gone(cluster: OwnCluster, client: RedisClusterClient):
    lost, kept = _stream_on(cluster, 2), _stream_on(cluster, 1)
    cluster.primaries[2].kill()
    replies = await client.many([("XADD", name, "*", "a", "b") for name in (kept, lost, kept)])
    assert [bytes, ConnectionFailed, bytes] == [type(reply) for reply in replies]


async def test_after_a_failover_the_new_primary_is_found(sentinels: OwnSentinels):
    broker = RedisStreamsBroker.from_url(sentinels.url, timeout=2.0)
    subscription = Subscription(source="s", group="g", lease=60.0)
    await broker.fetch(subscription, 0, 0)
    await broker.publish([_message("s")])
    sentinels.primary.kill()
    with pytest.raises(ConnectionFailed):
        await broker.publish([_message("s")])
    ids = await _eventually(lambda: broker.publish([_message("s")]))
    found = await _eventually(lambda: broker.fetch(subscription, 10, PATIENCE))
    assert ids[0] in [delivery.message.id for delivery in found]
    assert sentinels.replica is not None
    assert 2 == sentinels.replica.call("XLEN", "s")
    await broker.close()


async def test_a_primary_that_was_demoted_is_left(sentinels: OwnSentinels):
    client = redis_client(sentinels.url, timeout=2.0)
    await client.call("SET", "k", "1")
    sentinels.sentinels[0].call("SENTINEL", "FAILOVER", SERVICE)
    await _eventually(lambda: _written_to(client, sentinels.replica))
    await client.close()


async def test_a_replica_that_a_sentinel_still_names_as_the_primary_is_not_taken_for_it(
    sentinels: OwnSentinels, monkeypatch: pytest.MonkeyPatch
):
    assert sentinels.replica is not None
    named = [("127.0.0.1", sentinels.replica.port), ("127.0.0.1", sentinels.primary.port)]

    async def where(_: RedisSentinelClient) -> Host:
        return named.pop(0)

    monkeypatch.setattr(RedisSentinelClient, "where", where)
    client = redis_client(sentinels.url)
    with pytest.raises(ConnectionFailed, match="is no primary"):
        await client.call("PING")
    assert b"OK" == await client.call("SET", "k", "1")
    await client.close()


async def test_one_sentinel_is_enough_and_an_unknown_service_is_told(sentinels: OwnSentinels):
    for dead in sentinels.sentinels[:2]:
        dead.kill()
    client = redis_client(sentinels.url)
    assert b"OK" == await client.call("SET", "k", "1")
    await client.close()
    wrong = redis_client(sentinels.url.replace(f"/{SERVICE}/", "/nobody/"))
    with pytest.raises(ConnectionFailed, match="watches no 'nobody'"):
        await wrong.call("PING")
    await wrong.close()


async def test_sentinels_with_a_password_want_it(sentinels: OwnSentinels):
    for sentinel in sentinels.sentinels:
        sentinel.call("ACL", "SETUSER", "default", "resetpass", ">secret")
    with pytest.raises(AccessDenied, match="set sentinel_username and sentinel_password") as caught:
        await redis_client(sentinels.url + "?sentinel_password=wr0ng").call("PING")
    assert "wr0ng" not in str(caught.value)
    client = redis_client(sentinels.url + "?sentinel_password=secret")
    assert b"PONG" == await client.call("PING")
    assert "secret" not in client.url
    await client.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+cluster://h:1/3", "one database"),
        ("redis+sentinel://h:1", "service"),
        ("redis+sentinel://h:1/jobs?sentinel_username=me", "sentinel_password"),
        ("redis+sentinel://h:1/jobs/x", "no number"),
        ("glide+sentinel://h/jobs", "knows no sentinels"),
        ("redis://h:1,i:2", r"redis\+cluster"),
        ("redis+cluster://h:1,i:x", "cannot be read"),
    ],
)
def test_an_address_of_several_hosts_that_cannot_be_is_refused(url: str, told: str):
    with pytest.raises(InvalidURL, match=told):
        redis_client(url)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis+cluster://u:secret@a,b:7", "redis+cluster://u:***@a:6379,b:7"),
        ("valkey+sentinel://:secret@a,b:7/jobs/2", "valkey+sentinel://:***@a:26379,b:7/jobs/2"),
        ("rediss+cluster://[::1]:7?password=secret", "rediss+cluster://[::1]:7"),
    ],
)
def test_an_address_of_several_hosts_is_shown_without_secrets(url: str, masked: str):
    assert masked == redis_client(url).url


async def test_the_doctor_looks_at_every_node_and_names_those_that_are_not_well(calm_cluster: OwnCluster):
    ill = calm_cluster.primaries[1]
    ill.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb")
    broker = RedisStreamsBroker.from_url(calm_cluster.url)
    try:
        found = {finding.subject: finding.level for finding in await broker.diagnose()}
    finally:
        ill.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")
        await broker.close()
    assert "ok" == found["cluster"] == found["role"] == found["version"]
    (where,) = [subject for subject in found if subject.startswith("maxmemory-policy")]
    assert ("danger", f"maxmemory-policy of 127.0.0.1:{ill.port}") == (found[where], where)
    alone = RedisStreamsBroker.from_url(ill.url)
    assert {"role": "danger"} == {f.subject: f.level for f in await alone.diagnose() if f.subject == "role"}
    await alone.close()


async def test_delayed_messages_of_streams_on_other_nodes_find_their_way(calm_cluster: OwnCluster):
    """``delayed=`` may name a set that several streams share; in a cluster no script can reach them all."""
    broker = RedisStreamsBroker.from_url(calm_cluster.url)
    here, there = _stream_on(calm_cluster, 0), _stream_on(calm_cluster, 1)
    await broker.publish([Outgoing(destination=there, message=Message(type="t", body=b"1"), delay=0.001)])
    (member,) = calm_cluster.at(there).call("ZRANGE", f"{{{there}}}:retry", 0, -1)
    calm_cluster.at(there).call("DEL", f"{{{there}}}:retry")
    calm_cluster.at(here).call("ZADD", f"{{{here}}}:retry", 0, member)
    await broker.promote_due(here, 10)
    promoted = await broker.promote_due(there, 10)
    assert (1, 0) == (promoted.count, calm_cluster.at(here).call("ZCARD", f"{{{here}}}:retry"))
    await broker.close()


async def test_streams_of_one_slot_may_share_a_set_of_delayed_messages_in_a_cluster(calm_cluster: OwnCluster):
    broker = RedisStreamsBroker.from_url(calm_cluster.url)
    one, two = (Subscription(source=f"{{x}}{n}", group="g", delayed="{x}:later") for n in (1, 2))
    await broker.publish([_message(two.source)])
    (held,) = await broker.fetch(two, 1, 0.0)
    await broker.settle([Settlement(delivery=held, outcome=Retry(0.0))])
    promoted = await broker.promote_due(one.source, 10, delayed=one.delayed)
    assert 1 == promoted.count
    (again,) = await broker.fetch(two, 1, 0.0)
    assert 1 == again.message.attempt
    await broker.close()


async def test_a_broker_is_opened_whichever_node_is_down(cluster: OwnCluster):
    cluster.primaries[2].kill()
    for _ in range(10):  # any node may be the first to be asked
        broker = RedisStreamsBroker.from_url(cluster.url, timeout=2.0)
        await broker.open()
        await broker.close()


async def test_a_node_that_comes_back_is_not_asked_while_it_loads(calm_cluster: OwnCluster):
    """It may take long, and its replica has taken over: the map of who has what must be asked for anew."""
    client = redis_client(calm_cluster.url)
    assert isinstance(client, RedisClusterClient)
    name = _stream_on(calm_cluster, 0)
    host = await client.owner(name)
    node = client.node(host)
    many, looks = node.many, 0

    async def loading(commands: Sequence[Command]) -> list[Any]:
        return [error_of("LOADING Redis is loading the dataset in memory") for _ in commands]

    node.many = loading  # type: ignore[method-assign]
    with pytest.raises(ConnectionFailed, match="LOADING"):
        await client.many([("XLEN", name)])
    node.many = many  # type: ignore[method-assign]
    ask = client._ask

    async def counted(first: tuple[str, int] | None) -> None:
        nonlocal looks
        looks += 1
        await ask(first)

    client._ask = counted  # type: ignore[method-assign]
    assert [0] == await client.many([("XLEN", name)])
    assert 1 == looks
    await client.close()


async def _written_to(client: RedisClient, server: OwnServer | None) -> bool:
    assert server is not None
    await client.call("INCR", "count")
    try:
        there = server.call("GET", "count") is not None and server.call("ROLE")[0] == b"master"
    except RedisError as error:  # a server that changes its role drops its connections
        raise ConnectionFailed("not there yet") from error
    if not there:
        raise ConnectionFailed("not there yet")
    return True


async def _eventually(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until it is done without a lost connection; the cluster needs a moment to agree."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await attempt()
            except ConnectionFailed:
                await asyncio.sleep(0.05)


def _message(destination: str) -> Outgoing:
    return Outgoing(destination=destination, message=Message(type="t", body=b"1"))


def _stream_on(cluster: OwnCluster, node: int) -> str:
    return next(name for n in range(1000) if cluster.at(name := f"s-{n}") is cluster.primaries[node])


def _move(cluster: OwnCluster, key: str, *, finish: bool) -> None:
    """Move the slot of ``key``, or begin to: then its key is moved already."""
    slot, source = slot_of(key), cluster.at(key)
    target = next(node for node in cluster.primaries if node is not source)
    names = {node: str(node.call("CLUSTER", "MYID").decode()) for node in (source, target)}
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    source.call("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    if finish:
        for node in (target, source):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", names[target])
