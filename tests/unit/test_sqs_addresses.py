"""Addresses of SQS: understood, or refused with what was expected, and never with a secret."""

from __future__ import annotations

import pytest

from penstock import open_broker
from penstock.brokers.sqs import SqsOptions
from penstock.errors import ConfigurationError, InvalidURL


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("sqs://", None, None),
        ("sqs://?region=eu-west-1", None, "eu-west-1"),
        ("sqs://localhost:9324?region=r&tls=false", "http://localhost:9324", "r"),
        ("sqs://sqs.example.com", "https://sqs.example.com", None),
        ("sqs://[::1]:9324?tls=false", "http://[::1]:9324", None),
    ],
)
def test_an_address_names_a_region_or_a_server(url: str, endpoint: str | None, region: str | None) -> None:
    options = SqsOptions.from_url(url)
    assert (endpoint, region) == (options.endpoint, options.region)


def test_options_stand_in_the_address_or_beside_it() -> None:
    options = SqsOptions.from_url("sqs://?fifo=true&prefix=prod-&max_message=262144&timeout=2.5", parallel=3)
    assert (True, "prod-", 262_144, 2.5, 3) == (
        options.fifo,
        options.prefix,
        options.max_message,
        options.timeout,
        options.parallel,
    )


def test_the_secret_is_nowhere_to_be_seen() -> None:
    options = SqsOptions.from_url("sqs://key%2Bid:geheim@localhost:9324?region=r&tls=false")
    assert ("key+id", "geheim") == options.access
    assert "sqs://***@localhost:9324?region=r&tls=false" == options.url
    assert "geheim" not in f"{options!r}{options}"


@pytest.mark.parametrize(
    "url",
    [
        "sqs://host/queue",
        "sqs://?regoin=x",
        "sqs://?tls=false",
        "sqs://?fifo=perhaps",
        "sqs://?parallel=many",
        "sqs://host:port",
        "sqs://key:secret@?region=r",
    ],
)
def test_what_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        open_broker(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"max_message": 1}, {"timeout": 0}, {"parallel": 0}, {"fanout": "kafka"}, {"nonsense": 1}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        open_broker("sqs://?region=eu-west-1", **options)


def test_only_fifo_queues_promise_order_by_key() -> None:
    assert not open_broker("sqs://?region=r").capabilities.keyed
    assert open_broker("sqs://?region=r&fifo=true").capabilities.keyed
