"""The wire format as pure functions: order of members, bytes kept as they are, what cannot be read is told."""

from __future__ import annotations

import base64
import json

import pytest

from penstock.brokers.redis_streams import Keys, wire
from penstock.clients.redis_cluster import slot_of
from penstock.errors import ConfigurationError
from penstock.message import Message
from penstock.outcome import DeadLetter

HEADERS = b'{"type":"t","attempt":0,"enqueuedAt":1795219658000}'


def test_headers_are_written_in_the_order_of_the_original():
    message = Message(type="email.send", body=b"1", key="k", attempt=2, enqueued_at=1.5)
    assert b'{"type":"email.send","attempt":2,"enqueuedAt":1500,"key":"k"}' == wire.headers_of(message, 9.0)


def test_headers_of_the_user_follow_and_cannot_replace_the_others():
    message = Message(type="t", body=b"1", headers={"tenant": "ü", "type": "x", "key": "x", "retryGroup": "x"})
    assert '{"type":"t","attempt":0,"enqueuedAt":9000,"tenant":"ü"}'.encode() == wire.headers_of(message, 9.0)


@pytest.mark.parametrize("milliseconds", [1795219658145, 1795219658999, 1, 0])
def test_a_time_survives_the_way_there_and_back(milliseconds: int):
    headers = wire.headers_of(Message(type="t", body=b"", enqueued_at=milliseconds / 1000), 0.0)
    message, _, _ = wire.read_entry("1-0", [b"headers", headers, b"payload", b""])
    assert milliseconds / 1000 == message.enqueued_at


def test_the_fast_way_reads_the_same_as_the_other():
    for raw in (HEADERS, b'{"type":"t"}', b'{"type":"t","attempt":3,"key":null}', HEADERS[:-1] + b',"key":"k"}'):
        fields = [b"headers", raw, b"payload", b"1"]
        assert wire.read_entry("1-0", fields)[0] == wire.plain_message("1-0", raw, b"1")


@pytest.mark.parametrize(
    "raw", [HEADERS[:-1] + b',"a":1}', b"[]", b"", b'{"type":1}', b'{"type":"t","attempt":-1}', b"\xff"]
)
def test_the_fast_way_leaves_what_it_does_not_know_to_the_other(raw: bytes):
    assert wire.plain_message("1-0", raw, b"1") is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([b"foo", b"bar"], "no field headers"),
        ([b"headers", HEADERS], "no field payload"),
        ([b"headers", b"{no json", b"payload", b"1"], "not a JSON object"),
        ([b"headers", b"[]", b"payload", b"1"], "not a JSON object"),
        ([b"headers", b"\xff", b"payload", b"1"], "not a JSON object"),
        ([b"headers", b"[" * 100_000, b"payload", b"1"], "not a JSON object"),
        ([b"headers", b'{"attempt":0}', b"payload", b"1"], "no type"),
        ([b"headers", b'{"type":5}', b"payload", b"1"], "no type"),
        ([b"headers", b'{"type":"t","attempt":"1"}', b"payload", b"1"], "no whole number|not a whole number"),
        ([b"headers", b'{"type":"t","attempt":true}', b"payload", b"1"], "not a whole number"),
    ],
)
def test_what_cannot_be_read_is_told(fields: list[bytes], why: str):
    with pytest.raises(wire.Unreadable, match=why):
        wire.read_entry("1-0", fields)


def test_fields_are_found_in_any_order_and_the_last_of_equal_names_counts():
    fields = [b"payload", b"0", b"x", b"y", b"headers", HEADERS, b"payload", b"1"]
    assert b"1" == wire.read_entry("1-0", fields)[0].body


def test_aged_headers_keep_what_they_do_not_know_as_it_was():
    raw = b'{"attempt":0,"a":1.0,"big":12345678901234567890123,"type":"t","retryGroup":"g","s":"\\u00e9"}'
    expected = b'{"attempt":4,"a":1.0,"big":12345678901234567890123,"type":"t","s":"\\u00e9","enqueuedAt":2000}'
    assert expected == wire.aged_headers(raw, 4, 2.0)


@pytest.mark.parametrize(
    "body", [b"1", '"ü😀\u2028\x7f"'.encode(), b'"\\u0000\\ud800"', b'a"b\\c\n\x00\x1f', b"[" * 50]
)
def test_a_member_holds_headers_and_body_as_texts(body: bytes):
    head, mark, tail = wire.delayed_member("émail", HEADERS, body, "id1", "g")
    item = json.loads(head + tail)
    assert ["stream", "fields", "id"] == list(item)
    assert ("émail", "id1") == (item["stream"], item["id"])
    assert {"headers": HEADERS.decode(), "payload": body.decode()} == item["fields"]
    assert "g" == json.loads(json.loads(head + mark + tail)["fields"]["headers"])["retryGroup"]


def test_a_member_escapes_as_javascript_does():
    _, _, tail = wire.delayed_member("s", HEADERS, b'\x00\x1f\b\t\n\f\r"\\/\x7f', "i", "g")
    assert b'}","payload":"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\/\x7f"},"id":"i"}' == tail


def test_a_group_of_any_name_can_be_marked():
    name = 'a"b\\c😀'
    head, mark, tail = wire.delayed_member("s", HEADERS, b"1", "i", name)
    assert name == json.loads(json.loads(head + mark + tail)["fields"]["headers"])["retryGroup"]


def test_a_body_that_is_no_text_travels_as_base64_and_is_read_back():
    body = bytes(range(256))
    head, _, tail = wire.delayed_member("s", HEADERS, body, "i", "g")
    fields = json.loads(head + tail)["fields"]
    assert {"headers", "payload", "encoding"} == set(fields)
    flat = [part.encode() for pair in fields.items() for part in pair]
    assert body == wire.read_entry("1-0", flat)[0].body


def test_the_error_of_a_dead_letter_leaves_out_what_is_not_there():
    assert b"{}" == wire.error_field(DeadLetter())
    assert b'{"meta":null}' == wire.error_field(DeadLetter(meta=None))
    assert '{"reason":"ü","meta":[1]}'.encode() == wire.error_field(DeadLetter("ü", meta=[1]))


def test_a_dead_letter_takes_whatever_reason_and_meta_there_are():
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    for meta in ({"a": object()}, {1, 2}, "\ud800", Odd(), float("nan"), {(1, 2): 3}):
        assert isinstance(json.loads(wire.error_field(DeadLetter("\ud800", meta=meta))), dict)


def test_a_failure_is_bounded():
    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("x" * 100_000)
        deep(n - 1)

    with pytest.raises(ValueError, match="x") as caught:
        deep(200)
    field = wire.failure_field(caught.value, "1-0", 3)
    assert len(field) < 16_384
    assert {"type": "ValueError", "id": "1-0", "deliveries": 3}.items() <= json.loads(field).items()


def test_an_exception_without_words_does_not_stop_a_dead_letter():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "MuteError" == json.loads(wire.failure_field(MuteError(), "1-0", 1))["type"]


def test_raw_fields_are_kept_whatever_they_are():
    raw = json.loads(wire.raw_field([b"foo", b"bar", b"x", b"\xff\x00"]))
    assert [["foo", "bar"], ["x", {"base64": base64.b64encode(b"\xff\x00").decode()}]] == raw


def test_keys_beside_a_stream_share_its_hash_tag():
    keys = Keys()
    names = [keys.delayed("{email}"), keys.dead("{email}"), keys.once("{email}", "t", "k")]
    assert all("{email}" in name for name in names)
    assert ["s:retry", "s:dlq", "idempotency:s:t:k"] == [keys.delayed("s"), keys.dead("s"), keys.once("s", "t", "k")]


@pytest.mark.parametrize("stream", ["s", "{s}", "a{s}b", "a{b", "a:b"])
def test_keys_in_a_cluster_are_in_the_slot_of_their_stream(stream: str):
    keys = Keys(tagged=True)
    names = [keys.delayed(stream), keys.dead(stream), keys.once(stream, "t{x}", "k")]
    assert [slot_of(stream)] * 3 == [slot_of(name) for name in names]


@pytest.mark.parametrize("stream", ["a}b", "{}a"])
def test_a_stream_whose_name_cannot_be_tagged_is_refused_in_a_cluster(stream: str):
    with pytest.raises(ConfigurationError, match="no hash tag"):
        Keys(tagged=True).dead(stream)


@pytest.mark.parametrize("more", [b"", b',"own":1'])
def test_a_time_that_no_clock_can_tell_is_passed_over(more: bytes):
    headers = b'{"type":"t","attempt":0,"enqueuedAt":1%b%b}' % (b"0" * 400, more)

    assert wire.plain_message("1-0", headers, b"1") is None
    assert wire.read_entry("1-0", [b"headers", headers, b"payload", b"1"])[0].enqueued_at is None
