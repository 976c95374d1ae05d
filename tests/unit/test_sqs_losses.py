"""SQS where a message was stuck, or two streams were one, once: each of these failed before it was mended."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.brokers.sqs import SqsBroker
from penstock.brokers.sqs.receiving import Reader
from penstock.clock import SYSTEM_CLOCK
from penstock.errors import ConfigurationError
from penstock.outcome import DeadLetter
from tests.unit import test_sqs_broker as basics
from tests.unit.test_sqs_broker import SUBSCRIPTION, MakeBroker, outgoing, settle, take

make, bare = basics.make, basics.bare  # fixtures


async def test_a_dead_letter_whose_meta_is_too_large_is_kept_without_it(make: MakeBroker) -> None:
    broker = await make()
    await broker.publish([outgoing(b"1")])
    outcome = DeadLetter("z" * 2_000_000, error=ValueError("y" * 2_000_000), meta="m" * 2_000_000)
    assert [] == await settle(broker, outcome, *await take(broker))
    (letter,) = await broker.dead("q", 10)
    assert (b"1", '"mmm') == (letter.message.body, letter.meta[:4])


async def test_an_unreadable_message_that_fits_only_once_into_a_dead_letter_is_buried(
    make: MakeBroker, bare: Any
) -> None:
    broker = await make(max_message=262_144)
    await broker.fetch(SUBSCRIPTION, 0, 0.0)
    url = bare.get_queue_url(QueueName="q")["QueueUrl"]
    broken = {"penstock": {"DataType": "String", "StringValue": "no JSON"}}
    bare.send_message(QueueUrl=url, MessageBody="x" * 200_000, MessageAttributes=broken)
    (delivery,) = await take(broker)
    assert delivery.defect is not None
    assert [] == await settle(broker, DeadLetter("unreadable"), delivery)
    (letter,) = await broker.dead("q", 10)
    assert (200_000, False) == (len(letter.message.body), letter.raw is None)


@pytest.mark.parametrize("source", ["emails-dead", "orders-fifo-dead", "emails--high"])
def test_a_stream_whose_queue_would_be_another_ones_is_refused(source: str) -> None:
    broker = SqsBroker.from_url("sqs://localhost:1?region=eu-west-1&tls=false")
    with pytest.raises(ConfigurationError, match="dead letters"):
        broker._names.queue(source)


@pytest.mark.parametrize(("source", "group"), [("a__b", "c"), ("a", "b__c")])
def test_with_fan_out_a_stream_and_a_group_are_never_another_pair(source: str, group: str) -> None:
    broker = SqsBroker.from_url("sqs://localhost:1?region=eu-west-1&tls=false", fanout="sns")
    with pytest.raises(ConfigurationError, match="separates stream and group"):
        broker._names.queue(source, group)


async def test_thousands_of_messages_that_come_early_are_waited_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look brings only some that are hidden again; a look for each is not a call within a call."""
    broker = SqsBroker.from_url("sqs://localhost:1?region=eu-west-1&tls=false", clock=SYSTEM_CLOCK)
    looks = 0

    async def early(_self: Reader, _limit: int, _wait: float) -> tuple[list[Any], bool]:
        nonlocal looks
        looks += 1
        return ([], False) if looks < 5000 else (["due"], False)

    monkeypatch.setattr(Reader, "_receive", early)
    assert ["due"] == await broker._reader(SUBSCRIPTION).fetch(10, 20.0)
    await broker.close()
