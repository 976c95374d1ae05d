"""Rotif 0.2.2 on one Redis with us: what it has written is read, and what we write is the same but for ids and times."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock import Notification
from penstock.brokers.rotif import RotifBroker
from penstock.clients.opening import redis_client
from penstock.clients.redis_listening import Listener
from tests.servers.redis_server import Server
from tests.unit.notifying import Heard, Place, until

RECORDED = {
    item["scenario"]: item
    for item in json.loads((Path(__file__).parents[1] / "data" / "rotif.json").read_text("utf-8"))
}
PUBLISHED = [name for name in RECORDED if name.startswith("publish_")]


@pytest.fixture
async def place(redis_server: Server) -> AsyncIterator[Place]:
    redis_server.flush()
    made = Place("redis", redis_server.url, redis_server)
    yield made
    await made.close()


def text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def entries(server: Server, stream: str) -> list[list[tuple[str, str]]]:
    found = server.call("XRANGE", stream, "-", "+")
    return [[(text(name), text(value)) for name, value in fields.items()] for _, fields in found]


def timeless(fields: Any) -> list[tuple[str, str]]:
    return [(name, "…" if name == "timestamp" else value) for name, value in map(tuple, fields)]


def recorded_entries(keys: dict[str, Any], stream: str) -> list[list[tuple[str, str]]]:
    return [timeless(fields) for _, fields in keys[stream].get("entries", [])]


def streams_of(keys: dict[str, Any]) -> list[str]:
    return [key for key in keys if key.startswith("rotif:stream:") and not key.endswith(":retry")]


async def bound(place: Place, keys: dict[str, Any]) -> None:
    """All patterns with a group each, and nobody who reads."""
    broker: Any = place.manager().broker
    for pattern, _ in keys["rotif:patterns"]["members"]:
        await broker.bind(pattern, f"grp:{pattern}")
    await broker.close()


def is_text(fields: Any) -> bool:
    return dict(map(tuple, fields))["payload"] != ""  # of an undefined payload, which is no JSON


@pytest.mark.parametrize("name", PUBLISHED)
async def test_what_is_published_is_written_as_the_original_writes_it(place: Place, name: str) -> None:
    keys = RECORDED[name]["keys"]
    await bound(place, keys)
    manager = place.manager(unrouted="drop")
    seen: list[Any] = []
    rows = [row for stream in streams_of(keys) for row in keys[stream]["entries"] if is_text(row[1])]
    rows.sort(key=lambda row: tuple(map(int, row[0].split("-"))))
    for _, fields in rows:
        if fields in seen:  # the copy of another pattern
            continue
        seen.append(fields)
        one = dict(fields)
        await manager.publish(
            one["channel"], json.loads(one["payload"]), attempt=int(one["attempt"]), dedup_ttl=float(one["dedupTTL"])
        )
    assert [] == await manager.publish("nobody/wants.this", 1)
    server = place.server
    assert server is not None
    for stream in streams_of(keys):
        wanted = [fields for fields in recorded_entries(keys, stream) if is_text(fields)]
        assert sorted(wanted) == sorted(map(timeless, entries(server, stream)))
    channels = {dict(fields)["channel"] for fields in seen}
    assert sorted(channels) == sorted(text(each) for each in server.call("ZRANGE", "rotif:channels", 0, -1))


async def test_delayed_messages_are_written_as_the_original_writes_them(place: Place) -> None:
    keys = RECORDED["delayed_escapes_two_patterns"]["keys"]
    await bound(place, keys)
    manager, server = place.manager(delayed=False), place.server
    assert server is not None
    bodies = [json.loads(value["value"]) for key, value in keys.items() if key.startswith("rotif:delayed:")]
    for channel, payload, attempt, ttl in {
        (body["channel"], body["payload"], int(body["attempt"]), float(body["dedupTTL"])) for body in bodies
    }:
        ids = await manager.publish(channel, json.loads(payload), delay=60, attempt=attempt, dedup_ttl=ttl)
        assert {36} == {len(ident) for ident in ids}
    found = [json.loads(server.call("GET", key)) for key in server.call("KEYS", "rotif:delayed:*")]

    def plain(items: list[Any]) -> list[Any]:
        return sorted(sorted((item | {"timestamp": "…"}).items()) for item in items)

    assert plain(bodies) == plain(found)
    names = {text(name) for name in server.call("ZRANGE", "rotif:scheduled", 0, -1)}
    assert names == {text(key).removeprefix("rotif:delayed:") for key in server.call("KEYS", "rotif:delayed:*")}


async def test_keys_of_what_is_there_once_are_those_of_the_original(place: Place) -> None:
    keys = RECORDED["exactly_once_publish"]["keys"]
    await bound(place, keys)
    manager, server = place.manager(delayed=False), place.server
    assert server is not None
    doc = {"name": "Zoë", "f": 1.5, "n": None, "l": [1, -1, 300, 70000, 1e10]}
    assert 2 == len(await manager.publish("orders.created", {"orderId": 1}, exactly_once=True))
    assert [] == await manager.publish("orders.created", {"orderId": 1}, exactly_once=True)
    await manager.publish("orders.created", {"orderId": 2}, exactly_once=True)
    await manager.publish("orders.created", {"orderId": 1})
    for payload in (doc, "text", None):
        await manager.publish("ö.x", payload, exactly_once=True, dedup_ttl=60)
    assert 1 == len(await manager.publish("orders.later", {"n": 1}, exactly_once=True, delay=60))
    assert [] == await manager.publish("orders.later", {"n": 1}, exactly_once=True, delay=60)
    for _ in range(2):
        assert 1 == len(await manager.publish("orders.zero", {"n": 1}, exactly_once=True, dedup_ttl=0))
    wanted = {key: (item["value"], item["ttl"]) for key, item in keys.items() if key.startswith("rotif:dedup:")}
    found = {text(key): text(server.call("GET", text(key))) for key in server.call("KEYS", "rotif:dedup:*")}
    assert {key: value for key, (value, _) in wanted.items()} == found
    for key, (_, ttl) in wanted.items():
        assert ttl - 5 < int(server.call("TTL", key)) <= ttl
    for stream in streams_of(keys):
        assert recorded_entries(keys, stream) == list(map(timeless, entries(server, stream)))


async def test_a_retry_is_written_as_the_original_writes_it_but_the_original_is_acked(place: Place) -> None:
    keys = RECORDED["retry_scheduled"]["keys"]
    manager, server = place.manager(max_retries=3, retry_delay=600.0), place.server
    assert server is not None
    await manager.subscribe("orders.*", Heard(error=ValueError("boom")))
    await manager.publish("orders.created", {"id": 1, "p": "a/b"}, exactly_once=True, dedup_ttl=50)

    async def scheduled() -> bool:
        return int(server.call("ZCARD", "rotif:scheduled")) == 1

    await until(scheduled)
    (key,) = server.call("KEYS", "rotif:delayed:*")
    (recorded,) = [json.loads(item["value"]) for name, item in keys.items() if name.startswith("rotif:delayed:")]
    assert recorded | {"timestamp": "…"} == json.loads(server.call("GET", text(key))) | {"timestamp": "…"}
    assert [] == entries(server, "rotif:stream:orders.*")
    assert 0 == server.call("XPENDING", "rotif:stream:orders.*", "grp:orders.*")["pending"]


async def test_dead_letters_begin_as_those_of_the_original(place: Place) -> None:
    keys = RECORDED["dlq_entries"]["keys"]
    manager, server = place.manager(retry_delay=0.01), place.server
    assert server is not None

    async def twice(message: Notification) -> None:
        raise ValueError(f"boom {message.attempt}")

    await manager.subscribe("d.x", Heard(error=ValueError("bad é")), max_retries=0)
    await manager.subscribe("e.x", Heard(error=ValueError("")), max_retries=1)
    await manager.subscribe("r.*", twice, max_retries=2)
    await manager.publish("d.x", {"i": 1}, exactly_once=True)
    await manager.publish("e.x", {"i": 2})
    await manager.publish("r.x", {"i": 3})

    async def dead() -> bool:
        return int(server.call("XLEN", "rotif:dlq")) == 3

    await until(dead)
    found = [timeless(fields) for fields in entries(server, "rotif:dlq")]
    assert sorted(recorded_entries(keys, "rotif:dlq")) == sorted(fields[:6] for fields in found)
    assert {"exactlyOnce", "dedupTTL", "id", "group", "reason", "failedAt", "stack"} <= dict(found[0]).keys()
    for stream in streams_of(keys):  # which the original leaves there
        assert [] == entries(server, stream)


async def test_subscribing_makes_the_groups_of_the_original_and_always_tells(place: Place) -> None:
    manager, server, ear = place.manager(), place.server, Listener(redis_client(place.url), "rotif:subscriptions:*")
    assert server is not None
    await ear.connect()
    for pattern, group in (("orders.created", None), ("orders.*", None), ("orders.*", "audit"), ("user:*", None)):
        await manager.subscribe(pattern, Heard(), group=group)
    for stream, groups in (("orders.*", {"audit", "grp:orders.*"}), ("user:*", {"grp:user:*"})):
        for key in (f"rotif:stream:{stream}", f"rotif:stream:{stream}:retry"):
            assert groups == {text(each[b"name"]) for each in server.call("XINFO", "GROUPS", key)}
    for pattern in ("orders.created", "orders.*", "user:*"):
        assert 1 == int(server.call("ZSCORE", "rotif:patterns", pattern))
    told: list[bytes] = []
    while len(told) < 4:
        told += [said for _, said in await ear.next(10, 5.0)]
    await ear.close()
    assert {b"add:orders.created", b"add:orders.*", b"add:user:*"} == set(told)
    again = place.manager()
    for _ in range(3):  # as after three restarts
        await again.subscribe("orders.*", Heard())
    assert 1 == int(server.call("ZSCORE", "rotif:patterns", "orders.*"))


def load(server: Server, keys: dict[str, Any]) -> None:
    """Put what the original has left into Redis."""
    for key, item in keys.items():
        if item["type"] == "stream":
            for ident, fields in item["entries"]:
                server.call("XADD", key, ident, *[part for pair in fields for part in pair])
            for group in item.get("groups", []):
                server.call("XGROUP", "CREATE", key, group["name"], "0", "MKSTREAM")
        elif item["type"] == "zset":
            for member, score in item["members"]:
                server.call("ZADD", key, score, member)
        else:
            server.call("SET", key, item["value"])


@pytest.mark.parametrize(
    "name", [*PUBLISHED, "retry_moved_to_retry_stream", "retry_scheduled", "delayed_moved_to_stream"]
)
async def test_what_the_original_has_left_is_read(place: Place, name: str) -> None:
    keys, server = RECORDED[name]["keys"], place.server
    assert server is not None
    load(server, keys)
    manager, heard, dead = place.manager(lease=1.0), Heard(), Heard()
    wanted = [
        (dict(fields)["channel"], json.loads(dict(fields)["payload"]))
        for key, item in keys.items()
        if item["type"] == "stream"
        for _, fields in item["entries"]
        if is_text(fields)
    ]
    poison = [1 for key in streams_of(keys) for _, fields in keys[key]["entries"] if not is_text(fields)]
    for pattern, _ in keys["rotif:patterns"]["members"]:
        await manager.subscribe(pattern, heard, group="all" if pattern == "*" else None)
    await heard.next(len(wanted))
    assert sorted(map(repr, wanted)) == sorted(repr((m.channel, m.payload)) for m in heard.messages)
    if poison:
        await manager.subscribe_to_dlq(dead)
        await dead.next(len(poison))


async def test_delayed_messages_of_the_original_come_when_they_are_due(place: Place) -> None:
    keys, server = RECORDED["delayed_delayMs_and_deliverAt"]["keys"], place.server
    assert server is not None
    load(server, keys)
    for member in server.call("ZRANGE", "rotif:scheduled", 0, -1):
        server.call("ZADD", "rotif:scheduled", 1, text(member))
    manager, heard = place.manager(), Heard()
    await manager.subscribe("orders.*", heard)
    bodies = [json.loads(item["value"]) for key, item in keys.items() if key.startswith("rotif:delayed:")]
    await heard.next(len(bodies) + 1)  # one was published at once
    assert {json.dumps(json.loads(body["payload"])) for body in bodies} <= {json.dumps(p) for p in heard.payloads}
    assert [] == server.call("KEYS", "rotif:delayed:*")


async def test_a_letter_that_somebody_wrote_by_hand_is_read_and_requeued(place: Place) -> None:
    keys, server = RECORDED["dlq_requeued"]["keys"], place.server
    assert server is not None
    load(server, {"rotif:dlq": keys["rotif:dlq"]})
    server.call("XADD", "rotif:dlq", "*", "channel", "h.x", "payload", '{"i":0}', "error", "x", "attempt", "3")
    manager, dead, heard = place.manager(), Heard(), Heard()
    await manager.subscribe_to_dlq(dead)
    letters = await dead.next(2)
    assert {("h.x", 3), ("d.c", 1)} == {(m.channel, m.attempt) for m in letters}
    await manager.subscribe("h.x", heard)
    await manager.subscribe("d.*", heard)
    assert 2 == await manager.requeue_from_dlq()
    await heard.next(2)
    assert {1} == set(heard.attempts)
    assert 0 == int(server.call("XLEN", "rotif:dlq"))


async def test_a_consumer_of_the_original_that_is_done_is_believed(place: Place) -> None:
    manager, heard, server = place.manager(), Heard(), place.server
    assert server is not None
    await manager.subscribe("orders.created", heard, group="g")
    digest = "571647889f8c208fc5d4cded86dd98d23683255ab8925fff84ca80c30bd194fd"
    server.call("SET", f"rotif:dedup:orders.created:{digest}:g:*", "1")
    await manager.publish("orders.created", {"orderId": 1}, exactly_once=True)
    await manager.publish("orders.created", {"orderId": 2}, exactly_once=True)
    await heard.next()
    assert [{"orderId": 2}] == heard.payloads
    assert 1 == int(
        server.call(
            "EXISTS", "rotif:dedup:orders.created:1a7f4e8db3c490d4f2c192cc73039f2d2ad9561cea2083a8bd1b4f01820f2576:g:*"
        )
    )


async def test_keys_that_the_original_does_not_know_are_ours_alone(place: Place) -> None:
    manager, server = place.manager(), place.server
    assert server is not None
    await manager.subscribe("a", Heard())
    assert {"rotif:patterns", "rotif:bound:a", "rotif:stream:a", "rotif:stream:a:retry"} <= {
        text(key) for key in server.call("KEYS", "*")
    }
    assert isinstance(manager.broker, RotifBroker)
