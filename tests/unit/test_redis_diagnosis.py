"""The doctor on real servers: each finding with a server that was set so, and none where all is well."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock import open_broker
from penstock.broker import Finding, GroupStats, Presence, StreamStats
from penstock.brokers.redis_streams import RedisStreamsBroker, diagnosis
from penstock.clock import SYSTEM_CLOCK
from tests.servers.redis_server import OwnServer

STREAM = "email"


@pytest.fixture
async def broker(durable_server: OwnServer) -> AsyncIterator[RedisStreamsBroker]:
    opened = await connect(durable_server.url)
    yield opened
    await opened.close()


async def connect(url: str) -> RedisStreamsBroker:
    broker = open_broker(url)
    assert isinstance(broker, RedisStreamsBroker)
    await broker.open()
    return broker


async def found(broker: RedisStreamsBroker) -> dict[str, Finding]:
    return {finding.subject: finding for finding in await broker.diagnose()}


async def test_a_server_that_is_well_set_gets_a_line_for_each_thing_that_was_looked_at(broker: RedisStreamsBroker):
    findings = await found(broker)
    assert {} == {name: each for name, each in findings.items() if each.level != "ok"}
    server = {"version", "maxmemory-policy", "evicted keys", "memory", "appendonly", "appendfsync", "snapshots", "role"}
    around = {
        "replicas",
        "timeout",
        "clients",
        "client-output-buffer-limit",
        "scripts",
        "rights",
        "round trip",
        "clock",
    }
    assert server | around | {"workers"} == findings.keys()


@pytest.mark.parametrize(
    ("settings", "subject", "level", "words"),
    [
        (("maxmemory", "1gb", "maxmemory-policy", "allkeys-lru"), "maxmemory-policy", "danger", "set noeviction"),
        (("maxmemory", "1gb", "maxmemory-policy", "volatile-lru"), "maxmemory-policy", "warning", "set noeviction"),
        (("maxmemory", "1"), "memory", "danger", "raise maxmemory"),
        (("appendonly", "no"), "appendonly", "danger", "no snapshots either"),
        (("appendonly", "no", "save", "900 1"), "appendonly", "warning", "since the last snapshot"),
        (("appendfsync", "everysec"), "appendfsync", "ok", "about a second"),
        (("appendfsync", "no"), "appendfsync", "warning", "half a minute"),
        (("timeout", "5"), "timeout", "warning", "after 5 idle seconds"),
        (("timeout", "300"), "timeout", "ok", "300 seconds"),
        (("maxclients", "1"), "clients", "warning", "raise maxclients"),
        (("client-output-buffer-limit", "normal 1000000 0 0"), "client-output-buffer-limit", "warning", "normal 0 0 0"),
    ],
)
async def test_each_unsafe_setting_is_told_with_its_remedy(
    broker: RedisStreamsBroker,
    durable_server: OwnServer,
    settings: tuple[str, ...],
    subject: str,
    level: str,
    words: str,
):
    durable_server.call("CONFIG", "SET", *settings)
    finding = (await found(broker))[subject]
    assert level == finding.level
    assert words in finding.detail


def test_a_replica_and_a_primary_that_needs_none_are_told():
    assert "danger" == diagnosis.role({"role": "slave"}).level
    assert "warning" == diagnosis.replicas({"connected_slaves": "1", "min-replicas-to-write": "0"}).level
    assert "ok" == diagnosis.replicas({"connected_slaves": "1", "min-replicas-to-write": "1"}).level
    assert "unknown" == diagnosis.replicas({"connected_slaves": "1"}).level


def test_what_no_server_here_can_be_made_to_say_is_understood_too():
    assert "danger" == diagnosis.version({"redis_version": "6.2.1"}).level
    assert "danger" == diagnosis.snapshots({"rdb_last_bgsave_status": "err"}).level
    assert "danger" == diagnosis.durability({"aof_enabled": "1", "aof_last_write_status": "err"}).level
    assert "warning" == diagnosis.evicted({"evicted_keys": "3"}).level
    assert "warning" == diagnosis.round_trip(0.2).level
    assert "behind" in diagnosis.clocks(-4.0).detail
    assert "ahead of" in diagnosis.clocks(4.0).detail


async def test_commands_that_the_user_may_not_run_are_named(durable_server: OwnServer):
    durable_server.call(
        "ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-xclaim", "-xgroup|create", "-eval", "-time"
    )
    broker = await connect(durable_server.url.replace("://", "://poor:pw@"))
    findings = await found(broker)
    await broker.close()
    assert ("danger", "danger", "unknown") == tuple(findings[name].level for name in ("rights", "scripts", "clock"))
    assert "may not run XCLAIM, XGROUP CREATE, TIME," in findings["rights"].detail


async def test_a_user_that_may_only_use_its_own_streams_has_all_rights(durable_server: OwnServer):
    durable_server.call("ACL", "SETUSER", "narrow", "on", ">pw", "~email*", "~penstock:{workers}*", "+@all")
    broker = await connect(durable_server.url.replace("://", "://narrow:pw@"))
    assert "ok" == (await found(broker))["rights"].level
    await broker.close()


async def test_what_may_not_be_seen_is_unknown_and_not_ok(durable_server: OwnServer):
    durable_server.call("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-config", "-hvals", "-xinfo")
    broker = await connect(durable_server.url.replace("://", "://blind:pw@"))
    findings = await found(broker)
    await broker.close()
    unseen = ("appendfsync", "timeout", "client-output-buffer-limit", "streams")
    assert ["unknown"] * 4 == [findings[name].level for name in unseen]


async def test_looking_changes_nothing(broker: RedisStreamsBroker, durable_server: OwnServer):
    await broker.diagnose()
    assert 0 == durable_server.call("DBSIZE")


async def test_a_group_with_work_and_no_worker_is_told_until_there_is_one(
    broker: RedisStreamsBroker, durable_server: OwnServer
):
    durable_server.call("XADD", STREAM, "*", "headers", '{"type":"t"}', "payload", "1")
    durable_server.call("XGROUP", "CREATE", STREAM, "g", "0")
    finding = (await found(broker))["group email/g"]
    assert "warning" == finding.level
    assert "XGROUP DESTROY email g" in finding.detail
    await broker.beat(worker("a", "1.0"), 30)
    assert "group email/g" not in await found(broker)


def test_a_shard_is_served_by_the_worker_of_its_stream():
    stats = StreamStats(
        source="email:3",
        size=1,
        delayed=0,
        dead=0,
        oldest_age=None,
        groups=(GroupStats(name="g", leased=0, lag=1, owners=0),),
    )
    assert [] == diagnosis.unserved(stats, [worker("a", "1.0")])
    assert ["group email:3/g"] == [each.subject for each in diagnosis.unserved(stats, [])]


async def test_workers_of_two_versions_are_told(broker: RedisStreamsBroker):
    await broker.beat(worker("a", "1.0"), 30)
    assert "1 alive, penstock 1.0" == (await found(broker))["workers"].detail
    await broker.beat(worker("b", "1.1"), 30)
    finding = (await found(broker))["workers"]
    assert "warning" == finding.level
    assert "1.0 and 1.1" in finding.detail


async def test_leases_of_consumers_that_fell_silent_are_told(broker: RedisStreamsBroker, durable_server: OwnServer):
    durable_server.call("XGROUP", "CREATE", STREAM, "g", "0", "MKSTREAM")
    durable_server.call("XADD", STREAM, "*", "headers", '{"type":"t"}', "payload", "1")
    durable_server.call("XREADGROUP", "GROUP", "g", "gone", "STREAMS", STREAM, ">")
    assert "leases email/g" not in await found(broker)
    assert ["leases email/g"] == [each.subject for each in diagnosis.silent(STREAM, "g", [("gone", 1, 301.0)])]
    assert [] == diagnosis.silent(STREAM, "g", [("idle", 0, 301.0)])


async def test_fresh_dead_letters_are_told_and_old_ones_are_not(broker: RedisStreamsBroker, durable_server: OwnServer):
    durable_server.call("XADD", STREAM, "*", "headers", '{"type":"t"}', "payload", "1")
    durable_server.call("XADD", f"{STREAM}:dlq", "1-1", "headers", '{"type":"t"}', "payload", "1")
    assert "dead letters email" not in await found(broker)
    durable_server.call("XADD", f"{STREAM}:dlq", "*", "headers", '{"type":"t"}', "payload", "1")
    finding = (await found(broker))["dead letters email"]
    assert "warning" == finding.level
    assert finding.detail.startswith("2, the last one")


def worker(identity: str, version: str) -> Presence:
    now = SYSTEM_CLOCK.time()
    return Presence(
        identity=identity,
        host="h",
        pid=1,
        started_at=now,
        beat_at=now,
        consumers=(f"{STREAM}/g",),
        concurrency=1,
        busy=0,
        quiet=False,
        rss=1,
        version=version,
    )
