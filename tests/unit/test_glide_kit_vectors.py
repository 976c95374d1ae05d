"""What glide-kit 0.3.0 wrote to a real server (``tests/data/glide_kit.json``): we read it, and write the same.

Ids and due times vary and are not compared; with a frozen clock everything else is, to the byte. Where ours differs the
test says so: faults of the original (lost or stuck messages) are not repeated, and a body is carried untouched where
the original parses and prints it again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import BrokerError
from penstock.message import Delivery, Message
from penstock.outcome import ACK, DeadLetter, Outcome, Release, Retry
from penstock.store import Claim
from penstock.stores.redis import RedisStore
from penstock.testing.clock import ManualClock
from tests.servers.redis_server import Server

VECTORS: dict[str, dict[str, Any]] = {
    item["scenario"]: item
    for item in json.loads((Path(__file__).parent.parent / "data" / "glide_kit.json").read_text("utf-8"))
}
START = 1795219658.0
SVC = Subscription(source="email", group="email:svc")
UNIQUE = re.compile(r',"id":"[0-9a-f]{24}"(?=}$)')
STREAMS = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name, vector in VECTORS.items()
    for key, value in vector["keys"].items()
    if value["type"] == "stream" and not key.endswith(":dlq")
]
SENDS = ["send-plain", "send-default-type-and-key", "send-payload-kinds", "send-unicode-nested"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def broker(redis_url: str, clock: ManualClock) -> AsyncIterator[RedisStreamsBroker]:
    broker = RedisStreamsBroker.from_url(redis_url, clock=clock, consumer="c-1", retention="keep")
    yield broker
    await broker.close()


def test_every_scenario_is_known():
    replayed = {
        *SENDS,
        "idempotent-send",
        "idempotent-send-pending-and-failures",
        *(name for name in VECTORS if name.startswith("retry-chain-")),
        "retry-explicit-and-unscheduled",
        "daemon-members",
        "dlq-explicit-and-non-retryable",
        "consumer-idempotency-pending",
        "consumer-idempotency-done",
        "consumer-idempotency-held-and-released",
        "group-after-ack",
        "group-claimed-from-dead-consumer",
        "undecodable-entries",
    }
    assert set(VECTORS) == replayed


@pytest.mark.parametrize(("scenario", "key"), STREAMS)
async def test_what_it_wrote_is_read(broker: RedisStreamsBroker, shared_server: Server, scenario: str, key: str):
    wrote = entries_of(scenario, key)
    restore(shared_server, key, wrote)

    found = await broker.fetch(Subscription(source=key), 100, 0.0)

    assert len(wrote) == len(found)
    for delivery, fields in zip(found, wrote, strict=True):
        named = dict(fields)
        try:
            headers = json.loads(named[b"headers"])
        except (KeyError, ValueError):
            assert delivery.defect
            continue
        message = delivery.message
        core = {name: headers.pop(name) for name in ("type", "attempt", "enqueuedAt", "key") if name in headers}
        assert (core["type"], core["attempt"], core.get("key")) == (message.type, message.attempt, message.key)
        assert core["enqueuedAt"] == round((message.enqueued_at or 0) * 1000)
        assert headers == message.headers
        assert named[b"payload"] == message.body


@pytest.mark.parametrize("scenario", SENDS)
async def test_what_it_sends_we_send(broker: RedisStreamsBroker, shared_server: Server, scenario: str):
    for key in VECTORS[scenario]["keys"]:
        for fields in entries_of(scenario, key):
            await send(broker, key, dict(fields))
        assert entries_of(scenario, key) == dump(shared_server, key)


async def test_its_idempotent_sends(broker: RedisStreamsBroker, shared_server: Server):
    vector = VECTORS["idempotent-send"]
    sends = [("email.send", "k", b"1"), ("email.send", "k", b"2"), ("other", "k", b"3"), ("email.send", None, b"4")]

    ids = [await once(broker, "email", kind, key, b'{"n":%b}' % n, 86400) for kind, key, n in sends]

    assert shape(vector["returned"]) == shape(ids)
    assert entries_of("idempotent-send", "email") == dump(shared_server, "email")
    for name, index in (("idempotency:email:email.send:k", 0), ("idempotency:email:other:k", 2)):
        assert ids[index].encode() == shared_server.call("GET", name)
        assert vector["keys"][name]["ttl"] == pytest.approx(shared_server.call("TTL", name), abs=2)


async def test_its_idempotency_keys_are_honoured_but_none_is_left_half_set(
    broker: RedisStreamsBroker, shared_server: Server
):
    keys = VECTORS["idempotent-send-pending-and-failures"]["keys"]
    for name in ("idempotency:email:msg:k", "idempotency:email:msg:old"):
        shared_server.call("SET", name, keys[name]["value"], "EX", keys[name]["ttl"])
    shared_server.call("SET", "broken", "not a stream")

    assert "PENDING" == await once(broker, "email", "msg", "k", b'{"n":1}', 3600)
    assert "1795219650000-7" == await once(broker, "email", "msg", "old", b'{"n":2}', 3600)
    assert 0 == shared_server.call("EXISTS", "email")
    assert 60 == pytest.approx(shared_server.call("TTL", "idempotency:email:msg:k"), abs=2)
    for _ in range(2):
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await once(broker, "broken", "msg", "k", b'{"n":1}', 3600)
    # The original leaves PENDING behind, and the second send "succeeds"
    assert 0 == shared_server.call("EXISTS", "idempotency:broken:msg:k")


async def test_its_chain_of_retries_into_the_dead_letters(
    broker: RedisStreamsBroker, shared_server: Server, clock: ManualClock
):
    (sent,) = entries_of("retry-chain-1-first-failure", "email")
    await send(broker, "email", dict(sent))
    stages = ["retry-chain-1-first-failure", "retry-chain-2-moved", "retry-chain-3-second-failure"]

    await fail(broker, SVC, Retry(60.0))
    assert members_of(stages[0], "email:retry") == members(shared_server, "email:retry")
    due = float(raw(shared_server, "ZRANGE", "email:retry", 0, 0, "WITHSCORES")[1])
    assert time.time() + 60 == pytest.approx(due / 1000, abs=5)

    assert 0 == (await broker.promote_due("email", 256)).count
    make_due(shared_server, "email:retry")
    await clock.advance(60.0)
    assert 1 == (await broker.promote_due("email", 256)).count
    assert entries_of(stages[1], "email") == dump(shared_server, "email")
    assert 0 == shared_server.call("EXISTS", "email:retry")

    await fail(broker, SVC, Retry(60.0))
    assert members_of(stages[2], "email:retry") == members(shared_server, "email:retry")

    make_due(shared_server, "email:retry")
    await clock.advance(60.005)
    await broker.promote_due("email", 256)
    await fail(broker, SVC, DeadLetter("maxAttempts(3)"))
    (last,) = [name for name in VECTORS if name.startswith("retry-chain-4")]
    assert entries_of(last, "email") == dump(shared_server, "email")
    assert entries_of(last, "email:dlq") == dump(shared_server, "email:dlq")
    assert 0 == raw(shared_server, "XPENDING", "email", "email:svc")[0]


async def test_its_explicit_retries_keep_unknown_headers_in_order(broker: RedisStreamsBroker, shared_server: Server):
    scenario = "retry-explicit-and-unscheduled"
    restore(shared_server, "email", entries_of(scenario, "email"))
    later = Subscription(source="email", group="email:svc", delayed="later")

    first, second = await broker.fetch(later, 10, 0.0)
    assert [] == await broker.settle([settled(first, Retry(0.0)), settled(second, Retry(1.5))])

    theirs = [json.loads(member) for member in members_of(scenario, "later")]
    ours = [json.loads(member) for member in members(shared_server, "later")]
    assert [m["stream"] for m in theirs] == [m["stream"] for m in ours]
    assert [m["fields"]["headers"] for m in theirs] == [m["fields"]["headers"] for m in ours]
    # The original prints the body anew ({"a":1}); ours is the body that was sent
    assert ["1", ' { "a" : 1.0 } '] == [m["fields"]["payload"] for m in ours]
    assert [json.loads(m["fields"]["payload"]) for m in theirs] == [json.loads(m["fields"]["payload"]) for m in ours]


async def test_its_unscheduled_retry_ends_up_in_the_stream(broker: RedisStreamsBroker, shared_server: Server):
    first, _ = entries_of("retry-explicit-and-unscheduled", "now")
    await send(broker, "now", dict(first))
    subscription = Subscription(source="now", group="email:svc")

    await fail(broker, subscription, Retry(0.0))
    assert 1 == (await broker.promote_due("now", 256)).count
    await fail(broker, subscription, ACK)

    assert entries_of("retry-explicit-and-unscheduled", "now") == dump(shared_server, "now")


async def test_members_that_its_daemon_moves_we_move(broker: RedisStreamsBroker, shared_server: Server):
    vector = VECTORS["daemon-members"]
    for member, score in vector["inputs"]:
        late = score > vector["clock_ms"]["start"]
        shared_server.call("ZADD", "email:retry", 1e15 if late else score, member)

    promoted = await broker.promote_due("email", 256)

    assert 4 == promoted.count
    assert entries_of("daemon-members", "email") == dump(shared_server, "email")
    assert entries_of("daemon-members", "other") == dump(shared_server, "other")
    assert [vector["inputs"][-1][0]] == members(shared_server, "email:retry")
    # The original tries the unreadable one again for ever
    (letter,) = await broker.dead("email", 10)
    assert ("unreadable", b"not json") == (letter.reason, letter.raw)


async def test_its_dead_letters(broker: RedisStreamsBroker, shared_server: Server):
    scenario = "dlq-explicit-and-non-retryable"
    wrote = entries_of(scenario, "email")
    for fields in wrote:
        await send(broker, "email", dict(fields))
    outcomes = [
        DeadLetter("bad", meta={"a": 1, "ü": [None, 1.5, "😀"]}),
        DeadLetter(),
        DeadLetter("only reason"),
        DeadLetter(meta=None),
        DeadLetter("non-retryable"),
    ]
    found = await broker.fetch(SVC, 10, 0.0)

    assert [] == await broker.settle([settled(d, o) for d, o in zip(found, outcomes, strict=True)])

    assert entries_of(scenario, "email:dlq") == dump(shared_server, "email:dlq")


async def test_its_dead_letters_are_read_and_requeued(broker: RedisStreamsBroker, shared_server: Server):
    restore(shared_server, "email:dlq", entries_of("dlq-explicit-and-non-retryable", "email:dlq"))

    letters = await broker.dead("email", 10)
    assert ["bad", "", "only reason", "", "non-retryable"] == [letter.reason for letter in letters]
    assert {("email:svc", "c-1", None)} == {(letter.group, letter.owner, letter.raw) for letter in letters}
    assert 5 == await broker.requeue_dead("email", [letter.id for letter in letters])

    assert entries_of("dlq-explicit-and-non-retryable", "email") == dump(shared_server, "email")
    assert 0 == shared_server.call("XLEN", "email:dlq")


async def test_its_consumer_idempotency_keys(redis_url: str, shared_server: Server):
    store = RedisStore.from_url(redis_url)
    (pending, done, held) = (
        VECTORS[f"consumer-idempotency-{name}"]["keys"]["consumed:email:k"]
        for name in ("pending", "done", "held-and-released")
    )

    assert Claim.NEW is await store.reserve("consumed:email:k", "c-1", 300)
    assert pending["value"].encode() == shared_server.call("GET", "consumed:email:k")
    assert pending["ttl"] == pytest.approx(shared_server.call("TTL", "consumed:email:k"), abs=2)
    assert await store.complete("consumed:email:k", "c-1", 86400)
    assert done["value"].encode() == shared_server.call("GET", "consumed:email:k")
    assert done["ttl"] == pytest.approx(shared_server.call("TTL", "consumed:email:k"), abs=2)
    assert Claim.DONE is await store.reserve("consumed:email:k", "c-1", 300)

    shared_server.call("SET", "consumed:email:k", held["value"], "EX", 200)
    assert Claim.HELD is await store.reserve("consumed:email:k", "c-1", 300)
    assert 199 == pytest.approx(shared_server.call("TTL", "consumed:email:k"), abs=2)
    for key in ("consumed:orders:a", "consumed:orders:b"):
        await store.reserve(key, "c-1", 300)
        assert await store.release(key, "c-1")
        assert 0 == shared_server.call("EXISTS", key)
    await store.close()


async def test_its_message_put_aside_while_another_holds_the_key(broker: RedisStreamsBroker, shared_server: Server):
    scenario = "consumer-idempotency-held-and-released"
    (sent,) = entries_of(scenario, "email")
    await send(broker, "email", dict(sent))
    await fail(broker, SVC, Release(0.5))
    assert members_of(scenario, "email:retry") == members(shared_server, "email:retry")

    orders = Subscription(source="orders", group="orders:svc")
    for fields in entries_of(scenario, "orders"):
        await send(broker, "orders", dict(fields))
    first, second = await broker.fetch(orders, 10, 0.0)
    assert [] == await broker.settle([settled(first, Retry(60.0)), settled(second, DeadLetter("no"))])
    assert members_of(scenario, "orders:retry") == members(shared_server, "orders:retry")
    assert entries_of(scenario, "orders:dlq") == dump(shared_server, "orders:dlq")


async def test_its_group_after_acks(broker: RedisStreamsBroker, shared_server: Server):
    wrote = entries_of("group-after-ack", "email")
    subscription = Subscription(source="email", group="email:svc", start="next")
    await send(broker, "email", dict(wrote[0]))
    assert [] == await broker.fetch(subscription, 10, 0.0)
    for fields in wrote[1:]:
        await send(broker, "email", dict(fields))
        await fail(broker, subscription, ACK)

    assert wrote == dump(shared_server, "email")
    (group,) = VECTORS["group-after-ack"]["keys"]["email"]["groups"]
    (ours,) = (pairs(each) for each in raw(shared_server, "XINFO", "GROUPS", "email"))
    last = raw(shared_server, "XREVRANGE", "email", "+", "-", "COUNT", 1)[0][0]
    assert (group["name"].encode(), group["pending"], last) == (
        ours[b"name"],
        ours[b"pending"],
        ours[b"last-delivered-id"],
    )


async def test_its_claim_from_a_dead_consumer_but_counted(redis_url: str, shared_server: Server):
    scenario = "group-claimed-from-dead-consumer"
    restore(shared_server, "email", entries_of(scenario, "email"))
    shared_server.call("XGROUP", "CREATE", "email", "email:svc", "0")
    shared_server.call("XREADGROUP", "GROUP", "email:svc", "dead", "STREAMS", "email", ">")
    claimer = RedisStreamsBroker.from_url(redis_url, consumer="c-2")

    found = await claimer.reclaim(Subscription(source="email", group="email:svc", lease=0.001), 10)

    theirs = VECTORS[scenario]["keys"]["email"]["pending"]["email:svc"]
    ours = raw(shared_server, "XPENDING", "email", "email:svc", "-", "+", 10)
    assert [owner for _, owner, _ in theirs] == [item[1].decode() for item in ours]
    # The original says 1 however often the consumer died
    assert [2, 2, 2] == [item[3] for item in ours] == [delivery.count for delivery in found]
    await claimer.close()


async def test_entries_that_it_cannot_decode_become_dead_letters(broker: RedisStreamsBroker, shared_server: Server):
    restore(shared_server, "email", entries_of("undecodable-entries", "email"))
    found = await broker.fetch(SVC, 10, 0.0)
    assert [True, True, False] == [delivery.defect is not None for delivery in found]
    outcomes = [DeadLetter("undecodable"), DeadLetter("undecodable"), ACK]

    assert [] == await broker.settle([settled(d, o) for d, o in zip(found, outcomes, strict=True)])

    letters = await broker.dead("email", 10)
    assert [[["foo", "bar"]], [["headers", "{not json"], ["payload", "1"]]] == [
        json.loads(d.raw or b"") for d in letters
    ]
    assert 0 == raw(shared_server, "XPENDING", "email", "email:svc")[0]


# --------------------------------------------------------------------------------------------------------------- tools


def entries_of(scenario: str, key: str) -> list[list[tuple[bytes, bytes]]]:
    """The entries of a recorded stream without their ids."""
    entries = VECTORS[scenario]["keys"][key]["entries"]
    return [[(name.encode(), as_bytes(value)) for name, value in fields] for _, fields in entries]


def as_bytes(value: str | dict[str, str]) -> bytes:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


def members_of(scenario: str, key: str) -> list[str]:
    return [member for member, _ in VECTORS[scenario]["keys"][key]["members"]]


def members(server: Server, key: str) -> list[str]:
    """The members of a sorted set without the ids that make ours unique."""
    return [UNIQUE.sub("", member.decode()) for member in server.call("ZRANGE", key, 0, -1)]


def make_due(server: Server, key: str) -> None:
    for member in server.call("ZRANGE", key, 0, -1):
        server.call("ZADD", key, 1, member)


def raw(server: Server, *command: str | int) -> Any:
    """The reply as the server gives it: a client makes something else of it."""
    return server.call("EVAL", "return redis.call(unpack(ARGV))", 0, *command)


def dump(server: Server, key: str) -> list[list[tuple[bytes, bytes]]]:
    return [list(pairs(fields).items()) for _, fields in raw(server, "XRANGE", key, "-", "+")]


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def restore(server: Server, key: str, entries: list[list[tuple[bytes, bytes]]]) -> None:
    for fields in entries:
        server.call("XADD", key, "*", *[part for pair in fields for part in pair])


def shape(ids: list[str]) -> list[int]:
    """Which of the ids are the same."""
    return [ids.index(ident) for ident in ids]


async def send(broker: RedisStreamsBroker, stream: str, fields: dict[bytes, bytes]) -> None:
    headers = json.loads(fields[b"headers"])
    message = Message(type=headers["type"], key=headers.get("key"), body=fields[b"payload"])
    await broker.publish([Outgoing(destination=stream, message=message)])


async def once(broker: RedisStreamsBroker, stream: str, type: str, key: str | None, body: bytes, ttl: float) -> str:
    message = Message(type=type, key=key, body=body)
    (ident,) = await broker.publish([Outgoing(destination=stream, message=message, once=None if key is None else ttl)])
    return ident


def settled(delivery: Delivery[Any], outcome: Outcome) -> Settlement[Any]:
    return Settlement(delivery=delivery, outcome=outcome)


async def fail(broker: RedisStreamsBroker, subscription: Subscription, outcome: Outcome) -> None:
    """Fetch the one message there is and settle it."""
    (delivery,) = await broker.fetch(subscription, 10, 0.0)
    assert [] == await broker.settle([settled(delivery, outcome)])
