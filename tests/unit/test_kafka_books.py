"""What needs no server: names, addresses, headers, and the text that says how far a group has come."""

from __future__ import annotations

import random

import pytest

from penstock.brokers.kafka.options import KafkaOptions, group_of, retry_topics, topic_of
from penstock.brokers.kafka.progress import Note, Runs, pack, unpack
from penstock.brokers.kafka.wire import Unreadable, headers_of, read
from penstock.errors import ConfigurationError, InvalidURL
from penstock.message import Message


def packed(offset: int, mark: int, notes: dict[int, Note], **limit: int) -> str:
    runs = Runs(offset)
    for at, note in notes.items():
        runs.add(at, *note)
    return pack(offset, mark, runs.runs, **limit)


def test_nothing_beyond_the_offset_needs_no_text() -> None:
    assert packed(7, 7, {}) == ""
    assert (7, {}) == unpack(7, "")


def test_a_text_of_somebody_else_says_nothing() -> None:
    assert (7, {}) == unpack(7, "1 not ours")
    assert (7, {}) == unpack(7, "any")
    assert (7, {}) == unpack(7, None)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_packed_is_unpacked(seed: int) -> None:
    dice = random.Random(seed)
    mark = 1000 + dice.randrange(400)
    notes = {
        at: Note(dice.choice((0, 1, 1, 2)), *((3, 1.5) if dice.random() < 0.05 else ()))
        for at in range(1000, mark)
        if dice.random() < 0.5
    }
    assert (mark, notes) == unpack(1000, packed(1000, mark, notes))


def test_what_does_not_fit_is_left_out_from_behind_and_never_said_to_be_settled() -> None:
    dice = random.Random(1)
    notes = {at: Note(dice.randrange(300)) for at in range(40_000) if dice.random() < 0.5}
    text = packed(0, 40_000, notes, most=500)
    assert len(text) <= 500
    mark, kept = unpack(0, text)
    assert 0 < mark < 40_000
    assert {at: note for at, note in notes.items() if at < mark} == kept


def test_names_are_translated_and_illegal_ones_refused() -> None:
    assert topic_of("emails:high") == "emails.high"
    assert group_of("emails", "g") == "emails:g"
    assert retry_topics("emails", "a:b")[0] == "emails.retry.a.b.1s"
    for name in ("", "a b", "ü", "x" * 250, "emails.dead", "emails.retry.x", "emails.delay.1s"):
        with pytest.raises(ConfigurationError, match="on Kafka"):
            topic_of(name)


def test_an_address_names_hosts_and_hides_its_password() -> None:
    options = KafkaOptions.from_url("kafkas://me:s%40cret@a:1,b", partitions=3)
    assert (("a:1", "b:9092"), "me", "s@cret", 3) == (
        options.hosts,
        options.user,
        options.password,
        options.partitions,
    )
    assert options.url == "kafkas://me:***@a:1,b:9092"
    assert options.client()["security.protocol"] == "SASL_SSL"


@pytest.mark.parametrize("url", ["kafka://", "kafka://a:b", "kafka://a/topic", "kafka://a?x=1"])
def test_an_address_that_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL, match="expected"):
        KafkaOptions.from_url(url)


def test_options_are_checked_where_they_are_given() -> None:
    for wrong in ({"partitions": 0}, {"timeout": 0}, {"drain": -1}, {"mechanism": "X"}, {"nonsense": 1}):
        with pytest.raises(ConfigurationError):
            KafkaOptions.from_url("kafka://a", **wrong)
    with pytest.raises(ConfigurationError, match="enable\\.auto\\.commit"):
        KafkaOptions.from_url("kafka://a", properties={"enable.auto.commit": True})


def test_a_lease_that_no_group_can_have_is_refused_with_the_remedy() -> None:
    assert KafkaOptions.from_url("kafka://a").session_of(30.0) == 30.0
    with pytest.raises(ConfigurationError, match="session="):
        KafkaOptions.from_url("kafka://a").session_of(2.0)
    assert KafkaOptions.from_url("kafka://a", session=1.0).session_of(2.0) == 1.0


def test_a_value_alone_is_a_message() -> None:
    message, _ = read("0-7", None, b"{}", [], "job")
    assert Message(id="0-7", type="job", body=b"{}") == message


def test_headers_of_any_kind_and_name_survive() -> None:
    sent = Message(
        id="1",
        type="t",
        body=b"x",
        key="k",
        attempt=2,
        enqueued_at=5.5,
        headers={"tenant": "ü", "n": 1, "type": "mine", "a;json": "text", "deep": {"a": [None]}},
    )
    got, _ = read("0-0", b"k", b"x", headers_of(sent, 0.0), "other")
    assert sent == got


@pytest.mark.parametrize(
    "headers", [[("attempt", b"many")], [("attempt", b"-1")], [("x;json", b"{")], [("type", b"\xff")]]
)
def test_what_cannot_be_read_says_why(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(Unreadable, match=r"headers|attempt"):
        read("0-0", None, b"x", headers, "t")
