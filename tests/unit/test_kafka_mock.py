"""KafkaBroker and answers that no healthy Kafka gives, from librdkafka's mock cluster.

G19: errors of the client library's callbacks were swallowed, and the offset committed all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer as BareConsumer
from confluent_kafka import KafkaError, TopicPartition

from penstock.broker import Subscription
from penstock.brokers.kafka import KafkaBroker
from penstock.brokers.kafka.options import delay_topics, retry_topics
from penstock.brokers.kafka.topics import Topics
from penstock.errors import AccessDenied, BrokerError, ConnectionFailed
from penstock.outcome import Ack, Retry
from tests.conftest import do_without
from tests.servers import kafka_mock
from tests.servers.kafka_mock import MockKafka
from tests.servers.redis_server import ServerUnavailableError
from tests.unit.test_kafka_driver import PATIENCE, fetch_for, publish, settle, take

JOBS = Subscription(source="jobs", lease=30.0)


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    try:
        mock = MockKafka()
    except ServerUnavailableError as missing:
        do_without(missing)
    for topic in ("jobs", "jobs.dead", *delay_topics("jobs"), *retry_topics("jobs", "default")):
        mock.topic(topic)
    yield mock
    mock.stop()


@pytest.fixture
async def opened(mock: MockKafka, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., KafkaBroker]]:
    # The mock has no controller to describe topics
    monkeypatch.setattr(Topics, "partitions", lambda _, topics: dict.fromkeys(topics, 1))
    brokers: list[KafkaBroker] = []

    def make(**options: Any) -> KafkaBroker:
        brokers.append(KafkaBroker.from_url(f"kafka://{mock.bootstrap}", **{"timeout": 2.0, "drain": 0.5, **options}))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.close()


async def test_g19_an_outcome_that_cannot_be_committed_is_no_success_and_says_why(
    mock: MockKafka, opened: Callable[..., KafkaBroker]
) -> None:
    broker = opened()
    await publish(broker, "jobs", b"1")
    (delivery,) = await take(broker, JOBS, 1)
    mock.push(kafka_mock.OFFSET_COMMIT, *[KafkaError.OFFSET_METADATA_TOO_LARGE] * 1000)
    with pytest.raises(ConnectionFailed, match=r"did not take a commit .*[Mm]etadata"):
        await settle(broker, Ack(), delivery)
    mock.clear(kafka_mock.OFFSET_COMMIT)
    assert [] == await settle(broker, Ack(), delivery)


async def test_g19_a_retry_that_cannot_be_written_commits_nothing(
    mock: MockKafka, opened: Callable[..., KafkaBroker]
) -> None:
    broker = opened()
    await publish(broker, "jobs", b"1")
    (delivery,) = await take(broker, JOBS, 1)
    mock.push(kafka_mock.PRODUCE, *[KafkaError.MSG_SIZE_TOO_LARGE])
    with pytest.raises(BrokerError):
        await settle(broker, Retry(0.0), delivery)
    assert 0 == await asyncio.to_thread(committed, mock)
    mock.clear(kafka_mock.PRODUCE)
    assert [] == await settle(broker, Retry(0.0), delivery)
    assert 1 == await asyncio.to_thread(committed, mock)
    (again,) = await take(broker, JOBS, 1)
    assert (b"1", 1) == (again.message.body, again.attempt)


def committed(mock: MockKafka) -> int:
    """How far the group is."""
    reader = BareConsumer({"bootstrap.servers": mock.bootstrap, "group.id": "jobs:default"})
    (place,) = reader.committed([TopicPartition("jobs", 0)], timeout=10.0)
    reader.close()
    return int(place.offset)


async def test_a_producer_that_is_broken_for_good_is_replaced(
    mock: MockKafka, opened: Callable[..., KafkaBroker]
) -> None:
    broker = opened()
    mock.push(kafka_mock.INIT_PRODUCER_ID, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    with pytest.raises(ConnectionFailed):
        await asyncio.wait_for(publish(broker, "jobs", b"1"), PATIENCE)
    await publish(broker, "jobs", b"2")
    assert [b"2"] == [each.message.body for each in await take(broker, JOBS, 1)]


async def test_progress_that_may_not_be_read_is_an_error_and_one_line_in_the_log(
    mock: MockKafka, opened: Callable[..., KafkaBroker], caplog: pytest.LogCaptureFixture
) -> None:
    broker = opened()
    await publish(broker, "jobs", b"1")
    mock.push(kafka_mock.OFFSET_FETCH, *[KafkaError.GROUP_AUTHORIZATION_FAILED] * 1000)
    with caplog.at_level(logging.WARNING, "penstock"), pytest.raises(AccessDenied):
        await fetch_for(broker, JOBS, PATIENCE)
    assert 1 == len([each for each in caplog.records if "progress" in each.message])
    mock.clear(kafka_mock.OFFSET_FETCH)
    found: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    while not found and time.monotonic() < deadline:
        try:
            found = list(await broker.fetch(JOBS, 1, 1.0))
        except AccessDenied:
            continue  # the last of them
    assert [b"1"] == [each.message.body for each in found]
