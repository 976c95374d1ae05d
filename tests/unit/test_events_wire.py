"""What ``@logistically/events`` 2.0 and 3.3 wrote to a real server (``tests/data``): all of it is read, and ours is the same.

Ids and times vary and are not compared; all else is, to the byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock import EventPublisher, Route, ValidationError
from penstock.brokers.redis_streams import EventsDialect, RedisStreamsBroker
from penstock.brokers.redis_streams.event_wire import Split, data_of, read, written
from penstock.brokers.redis_streams.wire import Fields, Unreadable
from penstock.errors import EncodeError
from penstock.events.canonical import canonical, number
from penstock.message import Message
from penstock.testing.clock import ManualClock
from tests.servers.redis_server import Server

DATA = Path(__file__).parent.parent / "data"
V2, V3 = (
    {item["scenario"]: item for item in json.loads((DATA / f"events_{name}.json").read_text("utf-8"))}
    for name in ("v2", "v3")
)
HASHES = json.loads((DATA / "events_body_hash.json").read_text("utf-8"))
START = 1795219873.421
IDS = re.compile(r'"(id|originalId)":"[0-9a-f-]{36}"')
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BUILT_IN = (
    Route(re.compile(r"^user\."), prefix="user-events:"),
    Route(re.compile(r"^observability\."), prefix="observability:"),
    Route(re.compile(r"^exception\."), prefix="exception:"),
)


def entries(vector: dict[str, Any], key: str) -> list[tuple[str, Fields]]:
    return [(i, [each.encode() for pair in pairs for each in pair]) for i, pairs in vector["keys"][key]["entries"]]


def streams(*vectors: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(vector, key, id=f"{vector['scenario']}-{key}")
        for vector in vectors
        for key, value in vector["keys"].items()
        if value["type"] == "stream"
    ]


def without_ids(text: bytes) -> str:
    return IDS.sub(r'"\1":""', text.decode())


def test_every_body_is_hashed_as_javascript_hashes_it():
    assert 177 == len(HASHES)
    for vector in HASHES:
        text = canonical(json.loads(vector["json"]))
        assert vector["stringified"] == text.decode()
        assert vector["sha256"] == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(
            (1.0, "1"),
            (-0.0, "0"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1e-7, "1e-7"),
            (1e-6, "0.000001"),
        ),
        *((5e-324, "5e-324"), (1.5e300, "1.5e+300"), (-1.5, "-1.5"), (float("nan"), "null"), (float("-inf"), "null")),
        (1.2345678901234567e20, "123456789012345670000"),
    ],
)
def test_numbers_are_written_as_javascript_writes_them(value: float, text: str):
    assert text == number(value)


def test_half_a_character_is_escaped_and_two_halves_are_one():
    assert rb'{"s":"\ud800"}' == canonical({"s": "\ud800"})
    assert '"😀"'.encode() == canonical("\ud83d\ude00")


def test_what_is_no_json_is_refused_with_its_type():
    with pytest.raises(EncodeError, match="object"):
        canonical({"a": object()})


@pytest.mark.parametrize(("vector", "key"), streams(*V2.values(), *V3.values()))
def test_whatever_the_originals_wrote_is_read(vector: dict[str, Any], key: str):
    for ident, fields in entries(vector, key):
        try:
            item = read(ident, data_of(fields))
        except Unreadable:
            assert vector["scenario"].startswith(("consumer-", "dlq-flattened"))  # written by hand, to be wrong
            continue
        data = json.loads(fields[fields.index(b"data") + 1])
        if isinstance(data, list):  # a dead letter of release 2
            data = json.loads(data[data.index("data") + 1])
        if isinstance(item, Split):
            inner = data["data"]
            messages = inner if isinstance(inner, list) else [each["envelope"] for each in inner["body"]["messages"]]
            found = [read("", text) for text in item.texts]
        else:
            messages, found = [data if "header" in data else data["data"]], [item]
        for envelope, read_as in zip(messages, found, strict=True):
            assert not isinstance(read_as, Split)
            message = read_as[0]
            assert envelope["header"]["type"] == message.type
            assert envelope["header"]["id"] == message.headers["id"]
            assert envelope["body"] == json.loads(message.body)


@pytest.mark.parametrize(("vector", "key"), streams(*(v for name, v in V2.items() if name.startswith("single-"))))
def test_what_is_read_is_written_again_byte_for_byte(vector: dict[str, Any], key: str):
    for ident, fields in entries(vector, key):
        item = read(ident, data_of(fields))
        assert isinstance(item, tuple)
        assert fields[1] == b"".join(written(item[0], attempt=0))


def test_a_body_with_half_a_character_is_carried_untouched():
    body = rb'{"s":"\ud800 \\ud800 \ud83d\ude00"}'
    message = Message(
        type="t", body=body, headers={"id": "1", "origin": "o", "timestamp": "", "hash": "", "version": ""}
    )

    item = read("1-0", b"".join(written(message, attempt=0)))

    assert isinstance(item, tuple)
    assert body == item[0].body


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"1",
            b"null",
            b"[]",
            b"[1]",
            b'["data"]',
            b'["foo","bar"]',
            b"{}",
            b'{"pattern":"p"}',
            b'{"pattern":"p","data":3}',
        ),
        *(b'{"header":{"id":1},"body":1}', b'{"header":[],"body":1}', b'{"header":{"batchId":"b"},"body":3}', b"\xff"),
        b'{"header":{"id":"1","type":"t","origin":"o","timestamp":"","hash":"","version":"","attempt":"x"},"body":1}',
        b'{"data":[1' + b"[" * 3000,
    ],
)
def test_what_is_no_event_is_unreadable_and_says_why(data: bytes):
    with pytest.raises(Unreadable, match="it"):
        read("1-0", data_of([b"data", data]))


@pytest.mark.parametrize("at", [b"1" + b"0" * 400, b"1" + b"0" * 20, b"-1", b'"soon"'])
def test_a_time_that_is_none_is_passed_over(at: bytes):
    header = b'{"id":"1","type":"t","origin":"o","timestamp":"","hash":"","version":"","enqueuedAt":%b}' % at

    item = read("5000-0", b'{"header":%b,"body":1}' % header)

    assert isinstance(item, tuple)
    assert 5.0 == item[0].enqueued_at


async def published(
    server: Server, vector: dict[str, Any], key: str, publisher: EventPublisher, sent: list[Any]
) -> None:
    """Publish, and compare with what the original wrote."""
    for type_, body in sent:
        await publisher.publish(type_, body)
    await publisher.close()
    for name in {name for name in vector["keys"] if key in {"*", name}}:
        ours = server.call("XRANGE", name, "-", "+")
        theirs = entries(vector, name)
        assert [without_ids(fields[1]) for _, fields in theirs] == [without_ids(fields[b"data"]) for _, fields in ours]
        assert all([b"data"] == list(fields) for _, fields in ours)


def broker_at(url: str, clock: ManualClock) -> RedisStreamsBroker:
    return RedisStreamsBroker.from_url(url, dialect=EventsDialect(), clock=clock)


async def test_a_publisher_writes_the_same_entries_for_the_built_in_routes(redis_url: str, shared_server: Server):
    vector, clock = V2["single-built-in-routes"], ManualClock(START)
    publisher = EventPublisher(broker_at(redis_url, clock), origin="user-service", routes=BUILT_IN, clock=clock)
    await published(shared_server, vector, "*", publisher, [(t, {"t": t}) for t in vector["event_types"]])


async def test_a_publisher_writes_the_same_bodies_and_hashes(redis_url: str, shared_server: Server):
    vector, clock = V2["single-bodies-and-hashes"], ManualClock(START)
    terms: Any = {"origin": "user-service", "namespace": "ns", "routes": BUILT_IN, "clock": clock}
    publisher = EventPublisher(broker_at(redis_url, clock), **terms)
    bodies = [*vector["inputs"], {"nan": float("nan"), "inf": float("inf"), "neg0": -0.0, "arr": [None]}]
    await published(shared_server, vector, "user-events", publisher, [("user.x", body) for body in bodies])


async def test_a_publisher_writes_the_same_for_its_own_routes_and_takes_the_default(
    redis_url: str, shared_server: Server
):
    vector, clock = V2["single-custom-routing"], ManualClock(START)
    routes = (Route(re.compile(r"^order\."), prefix="orders/"), Route(re.compile(r"\.created$")))
    publisher = EventPublisher(broker_at(redis_url, clock), origin="user-service", routes=routes, clock=clock)
    types = ("order.created", "user.created")
    await published(shared_server, vector, "*", publisher, [(t, {"t": t}) for t in types])


async def test_a_namespace_takes_the_place_of_the_origin_in_the_type_only(redis_url: str, shared_server: Server):
    vector, clock = V2["single-user-created"], ManualClock(START)
    for namespace, body in (
        (None, {"userId": "123", "name": "Jöhn", "n": 1.0, "d": "1970-01-01T00:00:00.000Z"}),
        ("acme", {"a": 1}),
    ):
        publisher = EventPublisher(
            broker_at(redis_url, clock), origin="user-service", namespace=namespace, routes=BUILT_IN, clock=clock
        )
        await publisher.publish("user.created", body)
        await publisher.close()
    ours = [without_ids(fields[b"data"]) for _, fields in shared_server.call("XRANGE", "user-events", "-", "+")]
    assert [without_ids(fields[1]) for _, fields in entries(vector, "user-events")] == ours


async def test_an_event_has_an_id_that_is_a_uuid_and_its_publisher_tells_it(redis_url: str, shared_server: Server):
    async with EventPublisher(RedisStreamsBroker.from_url(redis_url), origin="s") as publisher:
        ident = await publisher.publish("user.created", {})
        with pytest.raises(ValidationError, match=r"Invalid event body for type user.created: no"):
            await publisher.publish("user.created", {}, validator=Refusing())
    ((_, fields),) = shared_server.call("XRANGE", "user-events", "-", "+")
    assert UUID4.fullmatch(ident)
    assert ident == json.loads(fields[b"data"])["data"]["header"]["id"]


class Refusing:
    async def validate(self, event_type: str, body: Any) -> str:
        return "no"
