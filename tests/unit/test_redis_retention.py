"""How long entries of the Redis Streams driver stay, by retention."""

from __future__ import annotations

import pytest

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import ConfigurationError
from penstock.message import Message
from penstock.outcome import ACK
from tests.servers.redis_server import Server

FAST, SLOW = Subscription(source="s", group="fast"), Subscription(source="s", group="slow")
SWEPT = {"interest": {}, "limits": {"max_length": 2, "max_age": 0.0}, "keep": {}}


async def ack(broker: RedisStreamsBroker, subscription: Subscription, limit: int) -> int:
    found = await broker.fetch(subscription, limit, 0.0)
    await broker.settle([Settlement(delivery=each, outcome=ACK) for each in found])
    return len(found)


async def publish(broker: RedisStreamsBroker, count: int) -> None:
    await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"1")) for _ in range(count)])


@pytest.mark.parametrize("retention", SWEPT)
async def test_a_group_ten_times_slower_loses_nothing(redis_url: str, shared_server: Server, retention: str) -> None:
    broker = RedisStreamsBroker.from_url(redis_url, retention=retention, **SWEPT[retention])
    await broker.fetch(FAST, 0, 0.0)
    await broker.fetch(SLOW, 0, 0.0)
    await publish(broker, 200)
    slow = 0
    for _ in range(10):
        await ack(broker, FAST, 20)
        slow += await ack(broker, SLOW, 2)
        await broker.trim(FAST)
    while got := await ack(broker, SLOW, 20):
        slow += got
        await broker.trim(FAST)
    assert 200 == slow
    assert {"interest": 0, "limits": 1, "keep": 200}[retention] == shared_server.call("XLEN", "s")
    await broker.close()


async def test_limits_keep_the_newest_acked_entries_and_everything_leased(
    redis_url: str, shared_server: Server
) -> None:
    broker = RedisStreamsBroker.from_url(redis_url, retention="limits", max_length=5)
    await publish(broker, 20)
    await ack(broker, FAST, 8)
    held = await broker.fetch(FAST, 4, 0.0)
    assert 8 == await broker.trim(FAST)
    await broker.settle([Settlement(delivery=each, outcome=ACK) for each in held])
    await ack(broker, FAST, 8)
    assert 7 == await broker.trim(FAST)
    assert 5 == shared_server.call("XLEN", "s")
    await broker.close()


async def test_limits_of_age_remove_what_is_old_and_acked_and_nothing_else(
    redis_url: str, shared_server: Server
) -> None:
    broker = RedisStreamsBroker.from_url(redis_url, retention="limits", max_age=3600.0)
    for n in range(1, 7):  # written when the world was young
        shared_server.call("XADD", "s", f"{n}-0", "headers", '{"type":"t"}', "payload", "1")
    await ack(broker, FAST, 2)
    held = await broker.fetch(FAST, 4, 0.0)
    await publish(broker, 3)
    await ack(broker, FAST, 3)
    assert 2 == await broker.trim(FAST)
    await broker.settle([Settlement(delivery=each, outcome=ACK) for each in held])
    assert 4 == await broker.trim(FAST)
    assert 3 == shared_server.call("XLEN", "s")
    await broker.close()


async def test_a_second_group_cannot_join_a_work_queue(redis_url: str, shared_server: Server) -> None:
    broker = RedisStreamsBroker.from_url(redis_url, retention="workqueue")
    await publish(broker, 3)
    assert 3 == await ack(broker, FAST, 10)
    with pytest.raises(ConfigurationError, match=r"belongs to group 'fast'.*retention='interest'"):
        await broker.fetch(SLOW, 0, 0.0)
    assert 0 == shared_server.call("XLEN", "s")
    await broker.close()


@pytest.mark.parametrize("options", [{"retention": "limits"}, {"max_age": 1.0}, {"retention": "forever"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RedisStreamsBroker.from_url("redis://localhost", **options)
