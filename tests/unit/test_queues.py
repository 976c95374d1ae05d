"""Several queues: how they are written, and the order in which they are looked into."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from penstock import Consumer, Options, Queues, RetryPolicy, Worker, open_broker
from penstock.errors import ConfigurationError
from penstock.executor import Limits
from tests.servers.redis_server import Server


def test_without_weights_the_first_comes_first_always():
    queues = Queues("critical", "default", "critical")
    assert ("strict", ("critical", "default")) == (queues.mode, queues.names)
    assert {("critical", "default")} == {queues.order(random.Random(n)) for n in range(50)}


def test_with_equal_weights_every_order_comes():
    queues = Queues("a,1", ("b", 1), ["c", 1])
    assert "random" == queues.mode
    assert 6 == len({queues.order(random.Random(n)) for n in range(200)})


def test_a_weight_says_how_often_a_queue_comes_first():
    queues, dice = Queues("critical,3", "default,1"), random.Random(1)
    assert ("weighted", {"critical": 3, "default": 1}) == (queues.mode, queues.weights)
    first = Counter(queues.order(dice)[0] for _ in range(4000))
    assert 0.7 < first["critical"] / 4000 < 0.8


def test_what_is_left_out_does_not_come():
    assert ("b",) == Queues("a", "b").order(random.Random(), {"a"})
    assert () == Queues("a,2").order(random.Random(), {"a"})


@pytest.mark.parametrize("wrong", [[], [""], ["a,b"], ["a,-1"], [("a", "x")], [5], [("a", 1, 2)]])
def test_what_is_no_queue_is_refused(wrong: list[Any]):
    with pytest.raises(ConfigurationError):
        Queues(*wrong)


async def test_a_consumer_reads_them_all_and_leaves_paused_ones_out(redis_server: Server):
    import asyncio

    redis_server.flush()
    broker, ran, came = open_broker(f"sidekiq+{redis_server.url}"), [], asyncio.Event()

    async def handle(payload: Any) -> None:
        ran.append(payload[0])
        came.set()

    for queue in ("a", "b"):
        redis_server.call(
            "LPUSH", f"queue:{queue}", f'{{"class":"T","args":["{queue}"],"jid":"{queue}","queue":"{queue}"}}'
        )
    assert await broker.pause("a")
    consumer = Consumer(broker, Queues("a", "b"), object, handle)
    async with Worker(consumer):
        await asyncio.wait_for(came.wait(), 10)
        assert (["b"], 1) == (ran, redis_server.call("LLEN", "queue:a"))
        came.clear()
        await broker.resume("a")
        await consumer.follow(frozenset())
        await asyncio.wait_for(came.wait(), 10)
    assert ["b", "a"] == ran


async def test_what_killed_enough_owners_is_poison_whatever_the_policy_allows_and_somebody_is_told(
    redis_server: Server,
):
    import asyncio

    redis_server.flush()
    url, told = f"sidekiq+{redis_server.url}", asyncio.Event()
    job = '{"class":"T","args":[1],"jid":"j","queue":"q"}'
    redis_server.call("LPUSH", "queue:q", job)
    broker = open_broker(url)
    refused: list[tuple[str, str, int]] = []

    async def handle(payload: Any) -> None:
        raise AssertionError("it must not run again")

    def listen(delivery: Any, outcome: Any) -> None:
        refused.append((delivery.message.id, outcome.reason, delivery.count))
        told.set()

    redis_server.call("HSET", "pq:recovered", _sha1(job), 3)
    limits = Limits(max_crashes=3)
    options = Options(limits=limits, refused=listen)
    async with Worker(Consumer(broker, "q", object, handle, retry=RetryPolicy(max_attempts=1000), options=options)):
        await asyncio.wait_for(told.wait(), 10)
    assert [("j", "poison", 4)] == refused
    assert (1, 0) == (redis_server.call("ZCARD", "dead"), redis_server.call("HLEN", "pq:recovered"))


def _sha1(text: str) -> str:
    import hashlib

    return hashlib.sha1(text.encode()).hexdigest()
