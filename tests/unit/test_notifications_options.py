"""What managers are told: checked where it is given, in our words and in Rotif's."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import NotificationManager, open_broker
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import ConfigurationError, UnsupportedFeature
from penstock.notifications.hooks import Hooks
from penstock.notifications.options import address, from_rotif


def test_a_configuration_of_the_original_is_understood() -> None:
    url, options = from_rotif(
        {
            "redis": "redis://localhost:6379",
            "maxRetries": 3,
            "retryDelay": 500,
            "checkDelayInterval": 1000,
            "blockInterval": 1000,
            "deduplicationTTL": 60,
            "localRoundRobin": True,
            "maxStreamLength": 10000,
            "pendingIdleThreshold": 60000,
            "disableDelayed": True,
            "groupNameFn": "{}-group".format,
            "consumerNameFn": lambda: "consumer-1",
        }
    )
    assert "redis://localhost:6379" == url
    assert "orders.*-group" == options.pop("group_name")("orders.*")
    assert {
        "max_retries": 3,
        "retry_delay": 0.5,
        "wait": 1.0,
        "dedup_ttl": 60,
        "local_round_robin": True,
        "max_stream_length": 10000,
        "lease": 60.0,
        "delayed": False,
        "consumer": "consumer-1",
    } == options


def test_functions_of_milliseconds_become_functions_of_seconds() -> None:
    _, options = from_rotif({"redis": "redis://localhost", "retryDelay": lambda attempt, _: 2**attempt * 1000})
    assert [2.0, 4.0] == [options["retry_delay"](n, None) for n in (1, 2)]


def test_blocking_for_ever_is_the_default() -> None:
    assert {} == from_rotif({"redis": "redis://localhost", "blockInterval": 0})[1]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"url": "redis://localhost:6379", "password": "p/w"}, "redis://:p%2Fw@localhost:6379"),
        ({"url": "redis://u:old@h/1", "password": "new"}, "redis://u:new@h/1"),
        ({"host": "h", "port": 7000, "db": 2}, "redis://h:7000/2"),
        ({"path": "/run/redis.sock", "db": 1}, "unix:///run/redis.sock?db=1"),
        ({"url": "redis://h", "tls": True}, "rediss://h"),
        (
            {
                "url": "redis://h",
                "tls": {"ca": "/ca.crt", "cert": b"/c.crt", "key": "/c.key", "rejectUnauthorized": False},
            },
            "rediss://h?ssl_ca_certs=%2Fca.crt&ssl_certfile=%2Fc.crt&ssl_keyfile=%2Fc.key&ssl_cert_reqs=none",
        ),
        (
            {"url": "redis://h?x=1", "tls": {"ca": "-----BEGIN CERTIFICATE-----"}},
            "rediss://h?x=1&ssl_ca_data=-----BEGIN+CERTIFICATE-----",
        ),
    ],
)
def test_the_object_that_says_where_redis_is_becomes_an_address(given: dict[str, Any], url: str) -> None:
    assert url == address(given)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "names redis"),
        ({"redis": 6379}, "an address or an object"),
        ({"redis": "redis://h", "maxRetires": 1}, "no option maxRetires"),
        ({"redis": {"url": "redis://h", "nope": 1}}, "no option nope"),
        ({"redis": {"url": "redis://h", "tls": {"key": "-----BEGIN KEY-----"}}}, "path of a file"),
        ({"redis": "redis://h", "disablePendingMessageRecovery": True}, "cannot be switched off"),
    ],
)
def test_what_cannot_be_meant_is_an_error(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        from_rotif(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"retry_delay": -1}, "retry_delay"),
        ({"unrouted": "ignore"}, "unrouted"),
        ({"lease": 0}, "lease"),
        ({"nonsense": 1}, "no option nonsense"),
        ({"dedup_ttl": -1}, "dedup_ttl"),
    ],
)
def test_options_are_checked_where_they_are_given(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        NotificationManager("memory://", **options)


@pytest.mark.parametrize(
    ("url", "said"),
    [("kafka://localhost:9092", "knows no patterns"), ("sidekiq+redis://localhost", "knows no patterns")],
)
def test_brokers_without_patterns_are_refused_with_a_remedy(url: str, said: str) -> None:
    with pytest.raises(UnsupportedFeature, match=rf"{said}.*redis://"):
        NotificationManager(url)


def test_a_broker_of_plain_streams_is_refused_with_the_name_of_the_right_one() -> None:
    with pytest.raises(UnsupportedFeature, match=r"rotif\+redis://"):
        NotificationManager(RedisStreamsBroker.from_url("redis://localhost"))
    with pytest.raises(UnsupportedFeature, match="cluster"):
        open_broker("rotif+redis+cluster://a:1,b:2")
    with pytest.raises(UnsupportedFeature, match="max_stream_length is for"):
        NotificationManager("memory://", max_stream_length=5)


async def test_a_given_broker_needs_a_store_where_it_is_shared() -> None:
    manager = NotificationManager(open_broker("sqlite:///nowhere/at/all.db"))
    with pytest.raises(ConfigurationError, match="need a store"):
        manager.store()
    assert NotificationManager(MemoryBroker()).store() is not None
    await manager.stop_all()


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({}, "at least one"),
        (object(), "at least one"),
        ({"before": print}, "no option"),
        ({"on_error": 1}, "a function"),
    ],
)
def test_hooks_are_checked(hooks: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Hooks().add(hooks)


async def test_subscriptions_are_checked() -> None:
    async with NotificationManager("memory://") as manager:
        for options, said in (
            ({"max_retries": "3"}, "max_retries"),
            ({"concurrency": 0}, "concurrency"),
            ({"start": "$"}, "start"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                await manager.subscribe("x", print, **options)
        with pytest.raises(ConfigurationError, match="a function of"):
            await manager.subscribe("x", "handler")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="an empty one"):
            await manager.subscribe("", print)
