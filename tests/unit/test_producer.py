"""The producer: idempotency by an outside cache, headers, and what becomes of a batch that is partly refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import penstock
from penstock import Idempotency, Producer, PublishError, Send, Telemetry
from penstock.broker import Outgoing
from penstock.brokers.memory import MemoryBroker
from penstock.errors import ConfigurationError, ConnectionFailed, EncodeError, UnsupportedFeature
from penstock.stores.memory import MemoryStore
from penstock.telemetry import Event, Published, PublishFailed


class Failing(MemoryBroker):
    """Fails the calls of ``publish`` whose numbers it is given."""

    def __init__(self, *fail: int) -> None:
        super().__init__()
        self.fail, self.calls = set(fail), 0

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        self.calls += 1
        if self.calls in self.fail:
            raise ConnectionFailed("cut")
        return await super().publish(messages)


async def test_with_an_outside_cache_a_duplicate_gets_the_sentinel() -> None:
    broker = MemoryBroker()
    producer = Producer(broker, "s", dict, idempotency=Idempotency(ttl=60, cache=MemoryStore()))
    first = await producer.send({"n": 1}, key="k")
    assert [first, "0-0"] == [first, await producer.send({"n": 2}, key="k")]
    assert first != "0-0"
    assert 1 == (await broker.stats("s")).size


async def test_a_send_that_failed_takes_its_key_back() -> None:
    producer = Producer(Failing(1), "s", dict, idempotency=Idempotency(ttl=60, cache=MemoryStore()))
    with pytest.raises(ConnectionFailed):
        await producer.send({"n": 1}, key="k")
    assert "0-0" != await producer.send({"n": 1}, key="k")


async def test_a_cache_that_fails_too_does_not_hide_why_the_send_failed() -> None:
    class Broken(MemoryStore):
        async def forget(self, key: str) -> None:
            raise OSError("the cache is gone")

    producer = Producer(Failing(1), "s", dict, idempotency=Idempotency(ttl=60, cache=Broken()))
    with pytest.raises(ConnectionFailed, match="cut"):
        await producer.send({"n": 1}, key="k")


@pytest.mark.parametrize("wrong", [{"type": 5}, {"key": 5}])
async def test_type_and_key_are_texts(wrong: dict[str, Any]) -> None:
    with pytest.raises(EncodeError, match="texts"):
        await Producer(MemoryBroker(), "s", dict).send({}, **wrong)


async def test_a_page_that_fails_tells_the_fate_of_every_message() -> None:
    producer = Producer(Failing(2), "s", dict)
    with pytest.raises(PublishError, match="1500 of 2500") as failure:
        await producer.send_many({"n": n} for n in range(2500))
    results = failure.value.results
    assert 2500 == len(results)
    assert 1000 == sum(isinstance(result, str) for result in results)
    assert all(isinstance(result, ConnectionFailed) for result in results[1000:2000])
    assert all("not tried" in str(result) for result in results[2000:])


async def test_what_was_published_of_a_batch_and_what_was_refused_is_told_and_adds_up() -> None:
    told: list[Event] = []
    producer = Producer(Failing(2), "s", dict, telemetry=Telemetry(told.append))
    with pytest.raises(PublishError):
        await producer.send_many(Send({"n": n}, type="a" if n < 1200 else "b") for n in range(2500))
    assert [PublishFailed("s", "a", 200), PublishFailed("s", "b", 800), Published("s", "a", 1000)] == told


async def test_a_batch_that_was_not_tried_at_all_fails_plainly() -> None:
    with pytest.raises(ConnectionFailed):
        await Producer(Failing(1), "s", dict).send_many([{"n": 1}, {"n": 2}])


@pytest.mark.parametrize("headers", [{"attempt": 1}, {"type": "x"}, {"x": object()}, {"x": {1, 2}.__iter__()}])
async def test_headers_that_cannot_travel_are_refused_before_anything_is_sent(headers: dict[str, object]) -> None:
    broker = MemoryBroker()
    with pytest.raises(EncodeError):
        await Producer(broker, "s", dict).send({}, headers=headers)
    assert 0 == (await broker.stats("s")).size


@pytest.mark.parametrize("delay", [-1.0, float("nan")])
async def test_a_delay_is_a_number_of_seconds(delay: float) -> None:
    with pytest.raises((ConfigurationError, UnsupportedFeature), match="delay"):
        await Producer(MemoryBroker(), "s", dict).send({}, delay=delay)


async def test_publishing_is_told_to_who_listens() -> None:
    events: list[Event] = []
    producer = Producer(MemoryBroker(), "s", dict, default_type="a", telemetry=Telemetry(events.append))
    await producer.send({})
    await producer.send_many([{}, Send({}, type="b"), {}])
    assert [Published("s", "a", 1), Published("s", "a", 2), Published("s", "b", 1)] == events


def test_every_public_name_can_be_had() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    assert {*penstock.__all__} <= {*dir(penstock)}
