"""One stream in several: keys stay together, the load is spread, a shard that is lost holds up no other."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from penstock import (
    ConfigurationError,
    Consumer,
    Context,
    Options,
    Producer,
    Retry,
    RetryDaemon,
    Worker,
    open_broker,
)
from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.errors import ConnectionFailed
from penstock.message import Delivery, Message
from penstock.plan import Claim
from penstock.sharding import Shards, shard_names
from penstock.telemetry import Telemetry
from penstock.testing import VirtualClock, run_virtual
from tests.conftest import started
from tests.servers.redis_cluster import OwnCluster

PATIENCE = 60.0


def test_a_stream_of_one_shard_is_itself_and_others_are_numbered():
    assert ("email",) == shard_names("email", 1)
    assert ("email:0", "email:1", "email:2") == shard_names("email", 3)


def test_a_key_is_in_the_same_shard_whoever_asks():
    shards, others = Shards("s", 4, seed="a"), Shards("s", 4, seed="b")
    chosen = [shards.choose(f"user-{n}") for n in range(8)]
    assert chosen == [others.choose(f"user-{n}") for n in range(8)]
    assert ["s:2", "s:0", "s:2", "s:0", "s:3", "s:1", "s:3", "s:1"] == chosen  # as in every release
    assert 4 == len({shards.choose(str(n)) for n in range(100)})


def test_what_has_no_key_takes_turns_and_not_all_processes_begin_with_the_same():
    shards = Shards("s", 3, seed="here")
    assert dict.fromkeys(shards.names, 10) == Counter(shards.choose(None) for _ in range(30))
    assert 3 == len({Shards("s", 3, seed=str(n)).choose(None) for n in range(30)})


@pytest.mark.parametrize("shards", [0, -1])
def test_a_number_of_shards_that_cannot_be_is_refused(shards: int):
    with pytest.raises(ConfigurationError, match="shards"):
        Producer(open_broker("memory://"), "s", dict, shards=shards)


async def _ignore(_: Any) -> None: ...


def test_what_would_undo_the_sharding_is_refused():
    broker = open_broker("memory://")
    with pytest.raises(ConfigurationError, match="hash tag"):
        Consumer(broker, "{s}", dict, _ignore, shards=2)
    with pytest.raises(ConfigurationError, match="delayed"):
        Consumer(broker, "s", dict, _ignore, shards=2, options=Options(delayed="later"))


async def test_all_shards_are_consumed_as_one_and_retried():
    broker = open_broker("memory://")
    seen: Counter[int] = Counter()

    async def handle(n: int) -> Retry | None:
        seen[n] += 1
        return Retry(0.001) if seen[n] == 1 else None

    consumer = Consumer(broker, "s", int, handle, shards=4, concurrency=8)
    await Producer(broker, "s", int, shards=4).send_many(range(200))
    async with Worker(consumer):
        await _until(lambda: consumer.counters.acked == 200)
    assert dict.fromkeys(range(200), 2) == seen
    assert 200 == consumer.counters.retried


async def test_the_slots_are_divided_among_the_shards():
    broker = open_broker("memory://")
    open_now, gate = [0], asyncio.Event()

    async def handle(_: int) -> None:
        open_now[0] += 1
        await gate.wait()

    consumer = Consumer(broker, "s", int, handle, shards=4, concurrency=8)
    await Producer(broker, "s", int, shards=4).send_many(range(40))
    async with Worker(consumer):
        await _until(lambda: consumer.counters.fetched >= 8 and consumer.in_flight == 8)
        assert [8] == open_now
        gate.set()
        await _until(lambda: consumer.counters.acked == 40)


def test_threads_are_divided_among_the_shards_as_slots_are():
    def handle(_: int) -> None: ...

    consumer = Consumer(open_broker("memory://"), "s", int, handle, shards=4, concurrency=8, options=Options(threads=6))
    assert [(2, 2)] * 4 == [(lane.concurrency, lane.options.threads) for lane in consumer._plan.lanes()]


async def test_a_group_joins_every_shard_before_anybody_reads():
    broker = MemoryBroker()
    await Consumer(broker, "s", int, _ignore, group="g", shards=3).join()
    groups = [[group.name for group in (await broker.stats(name)).groups] for name in shard_names("s", 3)]
    assert [["g"]] * 3 == groups


def test_leases_are_kept_and_taken_over_in_every_shard():
    async def program() -> None:
        clock = VirtualClock()
        system, seen = MemorySystem(clock), list[tuple[int, int]]()
        broker, dead = MemoryBroker(system, identity="w"), MemoryBroker(system, identity="dead")

        async def handle(n: int, context: Context) -> None:
            seen.append((n, context.attempt))
            await asyncio.sleep(20)

        consumer = Consumer(broker, "s", int, handle, shards=3, concurrency=6, claim=Claim(min_idle=2.0))
        shards = [Subscription(source=name, group="default", lease=2.0) for name in shard_names("s", 3)]
        await Producer(dead, "s", int, shards=3, clock=clock).send_many(range(3))
        assert [1, 1, 1] == [len(await dead.fetch(shard, 9, 0.0)) for shard in shards]
        async with Worker(consumer, lease_thread=False, clock=clock, dice=random.Random(1), telemetry=Telemetry()):
            await asyncio.sleep(15)
            assert [(0, 1), (1, 1), (2, 1)] == sorted(seen)
            assert [0, 0, 0] == [len(await dead.reclaim(shard, 9)) for shard in shards]
            await asyncio.sleep(15)
        assert (3, 0) == (consumer.counters.acked, consumer.counters.lost)

    run_virtual(program())


async def test_messages_of_one_key_keep_their_order_where_each_shard_has_one_slot():
    broker = open_broker("memory://")
    seen: dict[str, list[int]] = {}

    async def handle(pair: list[Any]) -> None:
        await asyncio.sleep(0)
        seen.setdefault(pair[0], []).append(pair[1])

    producer = Producer(broker, "s", list, shards=4)
    for n in range(25):
        for key in "abcdefgh":
            await producer.send([key, n], key=key)
    consumer = Consumer(broker, "s", list, handle, shards=4, concurrency=4)
    async with Worker(consumer):
        await _until(lambda: consumer.counters.acked == 200)
    assert {key: list(range(25)) for key in "abcdefgh"} == seen


async def test_a_retry_daemon_serves_all_shards(redis_url: str):
    broker = open_broker(redis_url)
    await Producer(broker, "s", int, shards=3).send_many(range(9), delay=0.01)
    sizes = [0, 0, 0]
    async with RetryDaemon(broker, "s", shards=3):
        async with asyncio.timeout(PATIENCE):
            while sizes != [3, 3, 3]:
                sizes = [(await broker.stats(name)).size for name in shard_names("s", 3)]  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
    await broker.close()


@pytest.fixture
def cluster(server_kind: str) -> Iterator[OwnCluster]:
    yield from started(server_kind, partial(OwnCluster, replicas=1))


class _Away(MemoryBroker):
    """Cannot reach what is in ``away``."""

    away: frozenset[str] = frozenset()

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[int]]:
        if subscription.source in self.away:
            raise ConnectionFailed("no answer")
        return await super().fetch(subscription, limit, wait)


async def test_a_worker_starts_while_a_shard_is_away_which_joins_later():
    broker, ran = _Away(MemorySystem()), list[int]()
    broker.away = frozenset({"s:1"})
    await broker.publish([Outgoing(destination=f"s:{n % 2}", message=_number(n)) for n in range(4)])

    async def handle(n: int) -> None:
        ran.append(n)

    async with Worker(Consumer(broker, "s", int, handle, shards=2)) as worker:
        await _until(lambda: [0, 2] == sorted(ran))
        await _until(lambda: not worker.ready)
        broker.away = frozenset()
        await _until(lambda: [0, 1, 2, 3] == sorted(ran))
    broker.away = frozenset({"s:0", "s:1"})
    with pytest.raises(ConnectionFailed):
        await Worker(Consumer(broker, "s", int, handle, shards=2)).start()


async def test_when_a_node_of_a_cluster_dies_its_shard_waits_and_the_others_go_on(cluster: OwnCluster):
    """Three shards, a node each. The shard of the dead node goes on when the replica has taken over."""
    names = shard_names("s", 3)
    assert 3 == len({cluster.at(name).port for name in names})
    broker = open_broker(cluster.url, timeout=2.0)
    seen: Counter[int] = Counter()

    async def handle(n: int) -> None:
        seen[n] += 1

    consumer = Consumer(broker, "s", int, handle, shards=3, concurrency=9, claim=Claim(min_idle=60.0))
    producer = Producer(broker, "s", int, shards=3)
    async with Worker(consumer) as worker:
        await producer.send_many(range(30))
        await _until(lambda: consumer.counters.acked == 30)
        assert worker.ready
        doomed = next(name for name in names if cluster.at(name) is cluster.primaries[0])
        living = next(name for name in names if name != doomed)
        cluster.primaries[0].kill()
        await _until(lambda: not worker.ready)
        await broker.publish([Outgoing(destination=living, message=_number(n)) for n in range(30, 60)])
        await _until(lambda: seen.keys() >= set(range(60)))
        await _until(lambda: worker.ready)
        await producer.send_many(range(60, 90))
        await _until(lambda: seen.keys() >= set(range(90)))
        await _until(lambda: consumer.counters.acked == 90)
    assert dict.fromkeys(range(90), 1) == seen


def _number(n: int) -> Message:
    return Message(type="msg", body=str(n).encode(), enqueued_at=0.0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
