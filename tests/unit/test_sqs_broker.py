"""What is peculiar to the SQS driver, against a real server; the contract itself is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sqs import SqsBroker, wire
from penstock.errors import (
    AccessDenied,
    BrokerError,
    ConfigurationError,
    ConnectionFailed,
    PayloadTooLarge,
    PublishError,
    UnsupportedFeature,
)
from penstock.message import Delivery, Message
from penstock.outcome import Ack, DeadLetter, Release, Retry
from penstock.testing.clock import ManualClock
from tests.servers.sqs_server import SqsServer

SUBSCRIPTION = Subscription(source="q", group="g", lease=30.0)
KEYED = replace(SUBSCRIPTION, keyed=True)

MakeBroker = Callable[..., Any]


@pytest.fixture
async def make(sqs_server: SqsServer) -> AsyncIterator[MakeBroker]:
    sqs_server.flush()
    made: list[SqsBroker] = []

    async def make(**options: Any) -> SqsBroker:
        made.append(SqsBroker.from_url(sqs_server.url, **options))
        await made[-1].open()
        return made[-1]

    yield make
    for broker in made:
        await broker.close()


@pytest.fixture
def bare(sqs_server: SqsServer) -> Any:
    """A plain client of the system."""
    client = sqs_server.client()
    yield client
    client.close()


def outgoing(body: bytes = b"1", *, delay: float = 0.0, to: str = "q", **fields: Any) -> Outgoing:
    return Outgoing(destination=to, message=Message(type="t", body=body, **fields), delay=delay)


async def take(
    broker: SqsBroker, count: int = 1, subscription: Subscription = SUBSCRIPTION, within: float = 20.0
) -> list[Delivery[Any]]:
    """So many messages, that must come."""
    found: list[Delivery[Any]] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            found += await broker.fetch(subscription, count - len(found), 1.0)
    return found


async def settle(broker: SqsBroker, outcome: Any, *deliveries: Delivery[Any]) -> Sequence[Delivery[Any]]:
    return await broker.settle([Settlement(delivery=each, outcome=outcome) for each in deliveries])


class Answers:
    """Stands between a broker and its service: changes what certain calls get as answer."""

    def __init__(self, broker: SqsBroker, operation: str, *answers: Any) -> None:
        self.calls = 0
        connection = broker._connection
        ask = connection.call

        async def call(name: str, **params: Any) -> Any:
            if name != operation or self.calls >= len(answers):
                return await ask(name, **params)
            self.calls += 1
            return await answers[self.calls - 1](lambda **changed: ask(name, **{**params, **changed}), params)

        connection.call = call  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------------------------- delays


async def test_a_delay_beyond_what_sqs_allows_goes_in_hops_without_a_handler_seeing_it(
    make: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_DELAY", 1.0)
    broker = await make()
    sent = broker._clock.time()
    (ident,) = await broker.publish([outgoing(delay=3.2, key="k", headers={"a": 1})])
    (delivery,) = await take(broker)
    assert broker._clock.time() - sent >= 3.2
    assert (ident, 1, 0, "k", {"a": 1}) == (
        delivery.message.id,
        delivery.count,
        delivery.attempt,
        delivery.message.key,
        delivery.message.headers,
    )
    assert await settle(broker, Retry(2.5), delivery) == []
    failed = broker._clock.time()
    (again,) = await take(broker)
    assert broker._clock.time() - failed >= 2.5
    assert (1, 1, ident) == (again.attempt, again.count, again.message.id)
    assert await settle(broker, Ack(), again) == []
    stats = await broker.stats("q")
    assert (0, 0, 0) == (stats.size, stats.delayed, stats.dead)


async def test_a_retry_of_some_days_is_asked_of_sqs_for_its_longest_delay(make: MakeBroker, bare: Any) -> None:
    broker = await make()
    await broker.publish([outgoing()])
    (delivery,) = await take(broker)
    await settle(broker, Retry(20 * 86_400.0), delivery)
    assert 1 == (await broker.stats("q")).delayed
    assert [] == list(await broker.fetch(SUBSCRIPTION, 1, 0.0))


# --------------------------------------------------------------------------------------------------------------- FIFO


async def test_a_fifo_queue_hands_out_one_message_of_a_key_at_a_time_and_in_order(make: MakeBroker) -> None:
    one, two = await make(fifo=True), await make(fifo=True)
    await one.publish([outgoing(b"%d" % n, key="ab"[n % 2]) for n in range(8)])
    seen: dict[str, list[bytes]] = {"a": [], "b": []}
    for _ in range(4):
        held = await take(one, 2, KEYED)
        assert [] == list(await two.fetch(KEYED, 10, 0.0))
        assert {"a", "b"} == {delivery.message.key for delivery in held}
        for delivery in held:
            seen[delivery.message.key or ""].append(delivery.message.body)
        assert await settle(one, Ack(), *held) == []
    assert {"a": [b"0", b"2", b"4", b"6"], "b": [b"1", b"3", b"5", b"7"]} == seen


async def test_a_retry_on_a_fifo_queue_holds_up_its_key_and_no_other(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.publish([outgoing(b"a1", key="a"), outgoing(b"a2", key="a"), outgoing(b"b1", key="b")])
    first, other = sorted(await take(broker, 2, KEYED), key=lambda delivery: delivery.message.body)
    assert (b"a1", b"b1") == (first.message.body, other.message.body)
    assert await settle(broker, Retry(1.5), first) == []
    assert [] == list(await broker.fetch(KEYED, 10, 0.0))
    (again,) = await take(broker, 1, KEYED)
    assert (b"a1", 1) == (again.message.body, again.attempt)
    assert await settle(broker, Ack(), again, other) == []
    assert [b"a2"] == [delivery.message.body for delivery in await take(broker, 1, KEYED)]


async def test_attempts_on_a_fifo_queue_are_known_to_every_worker(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.publish([outgoing(key="a")])
    for attempt in range(3):
        (delivery,) = await take(await make(fifo=True), 1, KEYED)
        assert (attempt, 1) == (delivery.attempt, delivery.count)
        assert await settle(broker, Retry(0.0), delivery) == []


async def test_a_release_on_a_fifo_queue_costs_no_attempt_where_it_is_known(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.publish([outgoing(key="a")])
    for outcome in (Release(), Retry(0.0, counts=False), Release()):
        (delivery,) = await take(broker, 1, KEYED)
        assert 0 == delivery.attempt
        assert await settle(broker, outcome, delivery) == []


async def test_a_delayed_message_on_a_fifo_queue_waits_and_is_no_attempt_then(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    sent = broker._clock.time()
    await broker.publish([outgoing(key="a", delay=1.5)])
    assert [] == list(await broker.fetch(KEYED, 1, 0.0))
    (delivery,) = await take(await make(fifo=True), 1, KEYED)
    assert broker._clock.time() - sent >= 1.5
    assert 0 == delivery.attempt


async def test_the_dead_of_a_fifo_queue_are_kept_and_come_back_into_their_group(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.publish([outgoing(b"1", key="a")])
    (delivery,) = await take(broker, 1, KEYED)
    assert await settle(broker, DeadLetter("no"), delivery) == []
    (letter,) = await broker.dead("q", 10)
    assert 1 == await broker.requeue_dead("q", [letter.id])
    (again,) = await take(broker, 1, KEYED)
    assert (b"1", "a", 0) == (again.message.body, again.message.key, again.attempt)


async def test_keys_that_are_no_names_of_groups_are_ordered_as_well(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.publish([outgoing(b"1", key="ü" * 200), outgoing(b"2", key="ü" * 200), outgoing(b"3", key="")])
    held = await take(broker, 2, KEYED)
    assert [b"1", b"3"] == sorted(delivery.message.body for delivery in held)
    assert [] == list(await broker.fetch(KEYED, 10, 0.0))


# ------------------------------------------------------------------------------------------------------------- leases


async def test_a_lease_ends_twelve_hours_after_the_message_was_received(make: MakeBroker) -> None:
    clock = ManualClock()
    broker = await make(clock=clock)
    await broker.publish([outgoing()])
    (delivery,) = await take(broker)
    receipt = delivery.receipt
    asked: list[int] = []

    async def show(queue: str, handles: Sequence[str], seconds: Sequence[int]) -> list[bool]:
        asked.extend(seconds)
        return [True] * len(handles)

    broker._batches.show = show  # nobody waits for twelve hours
    for _ in range(43_200 // 20):
        await clock.advance(20.0)
        if await broker.extend([delivery], 30.0):
            break
    assert 43_200 - 60 < clock.monotonic() - (receipt.limit - 43_199) <= 43_200
    assert sum(seconds == 30 for seconds in asked) > 2_000
    assert asked[-1] <= 20
    assert [delivery] == await settle(broker, Ack(), delivery)


async def test_a_lease_that_sqs_cannot_give_is_refused(make: MakeBroker) -> None:
    broker = await make()
    with pytest.raises(ConfigurationError, match="12 hours"):
        await broker.fetch(replace(SUBSCRIPTION, lease=50_000.0), 0, 0.0)


# ----------------------------------------------------------------------------------------------- two unlike clients


async def test_a_bare_clients_message_is_read_with_its_attributes_as_headers(make: MakeBroker, bare: Any) -> None:
    broker = await make()
    url = bare.create_queue(QueueName="q")["QueueUrl"]
    attributes = {
        "type": {"DataType": "String", "StringValue": "email.send"},
        "tenant": {"DataType": "String", "StringValue": "acme"},
        "blob": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    sent = bare.send_message(QueueUrl=url, MessageBody='{"to": "ü"}', MessageAttributes=attributes)
    (delivery,) = await take(broker)
    message = delivery.message
    assert (sent["MessageId"], "email.send", '{"to": "ü"}'.encode()) == (message.id, message.type, message.body)
    assert {"tenant": "acme", "blob": "AP8="} == message.headers
    await settle(broker, Retry(0.0), delivery)
    (again,) = await take(broker)
    assert (1, sent["MessageId"], message.headers) == (again.attempt, again.message.id, again.message.headers)


async def test_a_body_alone_is_a_message_of_the_default_type(make: MakeBroker, bare: Any) -> None:
    broker = await make(default_type="job")
    url = bare.create_queue(QueueName="q")["QueueUrl"]
    gravito = {"id": "7", "type": "class", "data": '{"class":"SendMail","properties":{}}', "className": "SendMail"}
    bare.send_message(QueueUrl=url, MessageBody=json.dumps(gravito))
    (delivery,) = await take(broker)
    assert ("job", gravito) == (delivery.message.type, json.loads(delivery.message.body))


async def test_a_bare_client_reads_what_was_published(make: MakeBroker, bare: Any) -> None:
    broker = await make()
    await broker.publish(
        [
            outgoing('{"a":"ü"}'.encode(), key="k", enqueued_at=1_700_000_000.5, headers={"tenant": "acme"}),
            outgoing(b"\x00\xff"),
        ]
    )
    url = bare.get_queue_url(QueueName="q")["QueueUrl"]
    found: list[Any] = []
    while len(found) < 2:
        answer = bare.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        found += answer.get("Messages", [])
    text, binary = sorted(found, key=lambda each: each["Body"], reverse=True)
    attributes = {name: each["StringValue"] for name, each in text["MessageAttributes"].items()}
    assert ('{"a":"ü"}', "t") == (text["Body"], attributes["type"])
    assert {"key": "k", "enqueuedAt": 1_700_000_000_500, "headers": {"tenant": "acme"}} == json.loads(
        attributes["penstock"]
    )
    assert "AP8=" == binary["Body"]
    assert {"encoding": "base64"} == json.loads(binary["MessageAttributes"]["penstock"]["StringValue"])


@pytest.mark.parametrize("body", [b"", b"=", b" ", b"\r\n", "\ufffe".encode(), b"\x00", "\ud7ff\U0010ffff".encode()])
async def test_what_sqs_has_no_characters_for_arrives_all_the_same(make: MakeBroker, body: bytes) -> None:
    broker = await make()
    await broker.publish([outgoing(body, headers={"h": "\x00\ufffe"}, key="\x01")])
    (delivery,) = await take(broker)
    assert (body, {"h": "\x00\ufffe"}, "\x01") == (
        delivery.message.body,
        delivery.message.headers,
        delivery.message.key,
    )


# ------------------------------------------------------------------------------------------------------------- errors


async def test_a_throttled_entry_is_sent_again_and_a_refused_one_is_told(make: MakeBroker) -> None:
    broker = await make()
    await broker.fetch(SUBSCRIPTION, 0, 0.0)

    async def partly(ask: Any, params: Any) -> Any:
        entries = params["Entries"]
        answer = dict(await ask(Entries=[each for each in entries if each["Id"] not in "12"]))
        throttled = {"Id": "1", "SenderFault": False, "Code": "ThrottlingException", "Message": "slow down"}
        refused = {"Id": "2", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no"}
        return {**answer, "Failed": [throttled, refused]}

    answers = Answers(broker, "send_message_batch", partly)
    with pytest.raises(PublishError) as caught:
        await broker.publish([outgoing(b"%d" % n) for n in range(4)])
    fates = caught.value.results
    assert [str, str, BrokerError, str] == [type(fate) for fate in fates]
    assert "InvalidMessageContents" in str(fates[2])
    assert 1 == answers.calls
    assert {b"0", b"1", b"3"} == {delivery.message.body for delivery in await take(broker, 3)}


async def test_a_throttled_delete_is_asked_again_and_not_reported_as_lost(make: MakeBroker) -> None:
    broker = await make()
    await broker.publish([outgoing(b"%d" % n) for n in range(3)])
    held = await take(broker, 3)

    async def throttled(ask: Any, params: Any) -> Any:
        fault = {"SenderFault": False, "Code": "InternalError", "Message": "?"}
        return {"Failed": [{"Id": each["Id"], **fault} for each in params["Entries"]]}

    answers = Answers(broker, "delete_message_batch", throttled, throttled)
    assert [] == await settle(broker, Ack(), *held)
    assert 2 == answers.calls
    assert 0 == (await broker.stats("q")).size


async def test_a_retry_whose_removal_fails_is_not_written_twice(make: MakeBroker) -> None:
    broker = await make()
    await broker.publish([outgoing()])
    (delivery,) = await take(broker)

    async def cut(ask: Any, params: Any) -> Any:
        raise ConnectionFailed("cut")

    Answers(broker, "delete_message_batch", cut)
    with pytest.raises(ConnectionFailed):
        await settle(broker, Retry(0.0), delivery)
    assert [] == await settle(broker, Retry(0.0), delivery)
    assert 1 == (await broker.stats("q")).size
    assert [delivery] == await settle(broker, Retry(0.0), delivery)


async def test_after_a_failure_nothing_later_overtakes_on_a_fifo_queue(make: MakeBroker) -> None:
    broker = await make(fifo=True)
    await broker.fetch(KEYED, 0, 0.0)

    async def partly(ask: Any, params: Any) -> Any:
        answer = dict(await ask(Entries=params["Entries"][:9]))
        return {**answer, "Failed": [{"Id": "9", "SenderFault": False, "Code": "Throttling", "Message": "?"}]}

    Answers(broker, "send_message_batch", partly)
    with pytest.raises(PublishError) as caught:
        await broker.publish([outgoing(b"%d" % n, key="k") for n in range(25)])
    assert [True] * 9 + [False] * 16 == [isinstance(fate, str) for fate in caught.value.results]
    assert 9 == (await broker.stats("q")).size


async def test_a_message_larger_than_sqs_takes_is_refused_and_its_neighbours_go(make: MakeBroker) -> None:
    broker = await make(max_message=256 * 1024)
    with pytest.raises(PublishError) as caught:
        await broker.publish([outgoing(b"1"), outgoing(b"\xff" * 200_000), outgoing(b"x" * 200_000), outgoing(b"2")])
    assert [str, PayloadTooLarge, str, str] == [type(fate) for fate in caught.value.results]
    assert 3 == len(await take(broker, 3))


async def test_publishing_once_for_a_key_is_refused(make: MakeBroker) -> None:
    broker = await make()
    with pytest.raises(PublishError) as caught:
        await broker.publish([replace(outgoing(key="k"), once=60.0)])
    assert isinstance(caught.value.results[0], UnsupportedFeature)


async def test_a_missing_queue_is_named_where_none_may_be_made(make: MakeBroker) -> None:
    broker = await make(create=False)
    with pytest.raises(BrokerError, match=r"there is no queue 'q'.*create"):
        await broker.fetch(SUBSCRIPTION, 1, 0.0)


async def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    broker = SqsBroker.from_url("sqs://key:secret@127.0.0.1:1?region=eu-west-1&tls=false")
    with pytest.raises(ConnectionFailed) as caught:
        await broker.open()
    assert "secret" not in str(caught.value) + repr(broker) + repr(broker.options) + broker.url
    await broker.close()


async def test_credentials_that_cannot_be_found_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    broker = SqsBroker.from_url("sqs://127.0.0.1:1?region=eu-west-1&tls=false")
    with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
        await broker.open()
    await broker.close()


# ---------------------------------------------------------------------------------------------------------- operators


async def test_a_purge_takes_what_waits_and_what_is_delayed_while_nothing_is_leased(make: MakeBroker) -> None:
    broker = await make()
    await broker.publish([outgoing(), outgoing(), outgoing(delay=60.0)])
    (held,) = await take(broker)
    with pytest.raises(UnsupportedFeature, match="1 messages of 'q' are being worked on"):
        await broker.purge("q")
    assert await settle(broker, Release(), held) == []
    assert 3 == await broker.purge("q")
    stats = await broker.stats("q")
    assert (0, 0) == (stats.size, stats.delayed)


async def test_names_are_translated_and_others_refused(make: MakeBroker, bare: Any) -> None:
    broker = await make(prefix="prod-")
    await broker.publish([outgoing(to="emails:high"), outgoing(to="orders.fifo", key="k")])
    (held,) = await take(broker, 1, replace(SUBSCRIPTION, source="emails:high"))
    await settle(broker, DeadLetter("no"), held)
    urls = bare.list_queues()["QueueUrls"]
    names = sorted(url.rpartition("/")[2] for url in urls)
    assert ["prod-emails--high", "prod-emails--high-dead", "prod-orders.fifo"] == names
    assert ["emails:high", "orders.fifo"] == list(await broker.sources())
    for wrong in ("a.b", "a/b", "ü", "", "x" * 80):
        with pytest.raises(ConfigurationError, match="letters, digits"):
            await broker.publish([outgoing(to=wrong)])
