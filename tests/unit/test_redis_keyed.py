"""Keyed subscriptions on Redis Streams: what others may do to them, what they leave behind, and a random driver."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from penstock import Claim, Consumer, Context, Producer, RetryPolicy, Send, Worker, open_broker
from penstock.batches import Batch
from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import ConfigurationError, UnsupportedFeature
from penstock.message import Delivery, Message
from penstock.outcome import ACK, Ack, DeadLetter, Outcome, Release, Retry
from tests.servers.redis_server import Server

KEYED = Subscription(source="s", group="g", lease=30.0, keyed=True)
SHORT = replace(KEYED, lease=0.2)
PLAIN = Subscription(source="s", group="g", lease=0.2)
PATIENCE = 20.0
Make = Callable[..., RedisStreamsBroker]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    made: list[RedisStreamsBroker] = []

    def make(**options: Any) -> RedisStreamsBroker:
        made.append(RedisStreamsBroker.from_url(redis_url, **options))
        return made[-1]

    yield make
    for broker in made:
        await broker.close()


@pytest.fixture
async def broker(make: Make) -> RedisStreamsBroker:
    return make()


# ------------------------------------------------------------------------------------------------- what is left behind


async def test_nothing_is_kept_of_keys_that_are_idle(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2", "a3", "b1", "b2", "c1")
    done = 0
    while done < 6:
        await broker.promote_due("s", 100)
        for delivery in await broker.fetch(KEYED, 100, 0.0):
            outcome = Retry(0.0) if delivery.attempt == 0 and delivery.message.body != b"c1" else ACK
            await settle(broker, delivery, outcome)
            done += outcome is ACK
    assert [b"s"] == shared_server.call("KEYS", "*")
    assert 0 == shared_server.call("XLEN", "s")
    assert 0 == shared_server.call("XPENDING", "s", "g")["pending"]


async def test_a_purge_leaves_only_the_turns_of_what_is_leased(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2", "a3", "b1", "b2")
    a1, b1 = await broker.fetch(KEYED, 100, 0.0)
    await settle(broker, b1, Release())
    await broker.purge("s")
    assert [b"s", b"s:turns:g"] == sorted(shared_server.call("KEYS", "*"))
    await settle(broker, a1, ACK)
    assert [b"s"] == shared_server.call("KEYS", "*")


async def test_an_ordinary_subscription_keeps_nothing_of_keys(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2")
    found = await broker.fetch(PLAIN, 100, 0.0)
    await settle(broker, found[0], Retry(60.0))
    assert [b"s", b"s:retry"] == sorted(shared_server.call("KEYS", "*"))
    assert b"retryTurn" not in shared_server.call("ZRANGE", "s:retry", 0, 0)[0]


async def test_a_group_made_anew_begins_without_the_turns_of_the_old_one(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, "a1", "a2", "b1")
    a1, _ = await broker.fetch(KEYED, 100, 0.0)
    shared_server.call("XGROUP", "DESTROY", "s", "g")
    shared_server.call("XDEL", "s", a1.message.id)
    assert [b"a2", b"b1"] == bodies(await broker.fetch(KEYED, 100, 0.0))


async def test_a_script_flush_changes_nothing(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2", "a3")
    for name in (b"a1", b"a2", b"a3"):
        shared_server.call("SCRIPT", "FLUSH")
        (delivery,) = await broker.fetch(KEYED, 100, 0.0)
        assert name == delivery.message.body
        shared_server.call("SCRIPT", "FLUSH")
        assert not await settle(broker, delivery, ACK)


# --------------------------------------------------------------------------------------------- what others may do to it


async def test_a_turn_whose_holder_another_program_acked_passes_on_at_the_next_sweep(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, "a1", "a2")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    shared_server.call("XACK", "s", "g", a1.message.id)
    assert [] == await broker.fetch(KEYED, 100, 0.0)
    await broker.trim(KEYED)
    assert [b"a2"] == bodies(await broker.fetch(KEYED, 100, 0.0))


async def test_a_retry_that_somebody_deleted_holds_its_key_no_longer_than_to_the_next_sweep(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, "a1", "a2")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    await settle(broker, a1, Retry(60.0))
    await broker.trim(KEYED)
    assert [] == await broker.fetch(KEYED, 100, 0.0)  # it is still due to come
    shared_server.call("DEL", "s:retry")
    await broker.trim(KEYED)
    assert [b"a2"] == bodies(await broker.fetch(KEYED, 100, 0.0))


async def test_a_sweep_leaves_a_retry_alone_wherever_it_is(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    await settle(broker, a1, Retry(0.0))
    await broker.promote_due("s", 100)
    await broker.trim(KEYED)  # in the stream, unread
    shared_server.call("XREADGROUP", "GROUP", "g", "arriving", "STREAMS", "s", ">")
    await broker.trim(KEYED)  # read by a bell, and not looked at yet
    assert [(b"a1", 1)] == [(d.message.body, d.attempt) for d in await broker.fetch(KEYED, 100, 0.0)]


async def test_a_sweep_leaves_the_retries_of_another_set_alone(broker: RedisStreamsBroker):
    elsewhere = replace(KEYED, delayed="later")
    await send(broker, "a1", "a2")
    (a1,) = await broker.fetch(elsewhere, 100, 0.0)
    await settle(broker, a1, Retry(60.0))
    await broker.trim(KEYED)
    assert [] == await broker.fetch(elsewhere, 100, 0.0)


async def test_what_is_deleted_while_it_waits_is_passed_by_and_counted(
    broker: RedisStreamsBroker, shared_server: Server
):
    ids = await send(broker, "a1", "a2", "a3")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    shared_server.call("XDEL", "s", ids[1])
    await settle(broker, a1, ACK)
    assert [b"a3"] == bodies(await broker.fetch(KEYED, 100, 0.0))
    assert (1, 0) == (await broker.ghosts(KEYED), await broker.ghosts(KEYED))


async def test_what_another_program_acked_while_it_waited_is_no_ghost(
    broker: RedisStreamsBroker, shared_server: Server
):
    ids = await send(broker, "a1", "a2", "a3")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    shared_server.call("XACK", "s", "g", ids[1])
    await settle(broker, a1, ACK)
    assert [b"a3"] == bodies(await broker.fetch(KEYED, 100, 0.0))
    assert 0 == await broker.ghosts(KEYED)


async def test_a_holder_deleted_under_its_lease_passes_its_turn_on_when_that_lapses(make: Make, shared_server: Server):
    first, second = make(), make()
    await send(first, "a1", "a2")
    (a1,) = await first.fetch(SHORT, 100, 0.0)
    shared_server.call("XDEL", "s", a1.message.id)
    await asyncio.sleep(0.3)
    assert [] == await second.reclaim(SHORT, 100)
    assert 1 == await second.ghosts(SHORT)
    assert [b"a2"] == bodies(await second.fetch(SHORT, 100, 0.0))


async def test_lanes_that_vanished_are_made_anew_by_a_sweep(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, "a1", "a2", "a3", "b1", "b2")
    found = await broker.fetch(KEYED, 100, 0.0)
    assert 1 == shared_server.call("DEL", "s:lanes:g")
    await broker.trim(KEYED)
    order: list[bytes] = []
    while found:
        order += bodies(found)
        for delivery in found:
            await settle(broker, delivery, ACK)
        found = await broker.fetch(KEYED, 100, 0.0)
    assert [b"a1", b"b1", b"a2", b"b2", b"a3"] == order


async def test_who_gives_up_on_order_gets_everything_that_was_waiting(make: Make):
    keyed, plain = make(), make()
    await send(keyed, "a1", "a2", "a3")
    (a1,) = await keyed.fetch(SHORT, 100, 0.0)
    await settle(keyed, a1, ACK)
    await keyed.close()
    found: list[Delivery[Any]] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < 2 and time.monotonic() < deadline:
        for delivery in (*await plain.fetch(PLAIN, 100, 0.05), *await plain.reclaim(PLAIN, 100)):
            assert [] == await settle(plain, delivery, ACK)
            found.append(delivery)
    assert [(b"a2", 1, None), (b"a3", 1, None)] == [(d.message.body, d.count, d.predecessor) for d in found]
    # And whoever asks for it again is not held up by what was left of the old turns
    again = make()
    await send(again, "a4")
    await again.trim(SHORT)
    assert [b"a4"] == bodies(await again.fetch(SHORT, 100, 0.0))


async def test_what_an_ordinary_reader_left_waits_for_its_turn_and_keeps_its_count(make: Make):
    plain, keyed = make(), make()
    await send(plain, "a1", "a2")
    assert [b"a1"] == bodies(await plain.fetch(PLAIN, 1, 0.0))
    await asyncio.sleep(2.0)
    (a2,) = await keyed.fetch(KEYED, 100, 0.0)
    assert [] == await keyed.reclaim(replace(KEYED, lease=1.5), 100)
    await settle(keyed, a2, ACK)
    assert [(b"a1", 2)] == [(d.message.body, d.count) for d in await keyed.fetch(KEYED, 100, 0.0)]


async def test_another_groups_entry_under_lease_is_not_taken_for_a_waiting_retry(make: Make):
    """The retry of a group that was alone names no group: a group that came later must not let it overtake."""
    broker, other = make(retention="keep"), replace(KEYED, group="late")
    await send(broker, "a1")
    (a1,) = await broker.fetch(KEYED, 100, 0.0)
    await settle(broker, a1, Retry(0.0))
    assert [b"a1"] == bodies(await broker.fetch(other, 100, 0.0))
    await broker.promote_due("s", 100)
    assert [] == await broker.fetch(other, 100, 0.0)
    assert [1] == [d.attempt for d in await broker.fetch(KEYED, 100, 0.0)]


# ------------------------------------------------------------------------------------------------------------- reading


async def test_what_a_waiting_reader_heard_and_nobody_saw_is_not_counted(make: Make, shared_server: Server):
    first, second = make(), make()
    waiting = asyncio.create_task(first.fetch(SHORT, 10, 10.0))
    await blocked(shared_server)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await send(second, "a1", "a2")  # the bell of the first may still ring
    await asyncio.sleep(0.3)
    (a1,) = await second.fetch(SHORT, 10, 0.0)
    assert (b"a1", 1, None) == (a1.message.body, a1.count, a1.predecessor)


async def test_the_turn_that_a_settlement_passes_on_is_taken_at_once(make: Make):
    broker = make(look_around=60.0)
    await send(broker, *[f"a{n}" for n in range(10)])
    found = await broker.fetch(KEYED, 10, 5.0)
    began = time.monotonic()
    for _ in range(9):
        waiting = asyncio.create_task(broker.fetch(KEYED, 10, 30.0))
        await asyncio.sleep(0)
        assert [] == await settle(broker, found[0], ACK)
        found = await waiting
    assert b"a9" == found[0].message.body
    assert time.monotonic() - began < 10.0


async def test_a_group_is_not_read_both_keyed_and_not_by_one_process(broker: RedisStreamsBroker):
    await broker.fetch(KEYED, 1, 0.0)
    with pytest.raises(ConfigurationError, match="read both keyed and not"):
        await broker.fetch(PLAIN, 1, 0.0)


@pytest.mark.parametrize("name", ["released", "parked", "arriving"])
def test_an_owner_does_not_bear_a_name_of_the_driver(name: str):
    with pytest.raises(ConfigurationError, match="uses that name itself"):
        RedisStreamsBroker.from_url("redis://localhost", consumer=name)


@pytest.mark.parametrize(
    ("headers", "held"),
    [
        (b'{"type":"t","attempt":0,"key":"a"}', True),
        (b'{"type":"t","attempt":0,"enqueuedAt":1,"key":"\\u0061"}', True),
        (b'{ "key" : "a", "type" : "t" }', True),
        (b'{"type":"\\"key\\":\\"a\\"","attempt":0,"enqueuedAt":1}', False),
        (b'{"type":"t","attempt":0,"enqueuedAt":1,"key":null}', False),
        (b'{"type":"t","key":{"a":[1e999]}}', False),
        (b'{"type":"t","key":', False),
    ],
)
async def test_the_key_is_found_however_it_was_written(
    broker: RedisStreamsBroker, shared_server: Server, headers: bytes, *, held: bool
):
    await broker.fetch(KEYED, 0, 0.0)
    await send(broker, "a1")
    assert 1 == len(await broker.fetch(KEYED, 10, 0.0))
    shared_server.call("XADD", "s", "*", "headers", headers, "payload", "x")  # type: ignore[arg-type]
    assert (0 if held else 1) == len(await broker.fetch(KEYED, 10, 0.0))


@pytest.mark.parametrize("key", [b"7", b"true", b'["x"]'])
async def test_a_key_that_is_no_text_is_a_key(broker: RedisStreamsBroker, shared_server: Server, key: bytes):
    await broker.fetch(KEYED, 0, 0.0)
    for _ in range(2):
        shared_server.call("XADD", "s", "*", "headers", b'{"type":"t","key":%b}' % key, "payload", "x")  # type: ignore[arg-type]
    (first,) = await broker.fetch(KEYED, 10, 0.0)
    await settle(broker, first, Retry(0.0))
    await broker.promote_due("s", 10)
    (again,) = await broker.fetch(KEYED, 10, 0.0)
    assert 1 == again.attempt


# ------------------------------------------------------------------------------------------------------- random driver


class Referee:
    """Knows what was sent and what is out; objects when a key is out twice, or out of order.

    What is being settled may be over already, as far as others can see: so it does not count as out, nor as unfinished.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, list[int]] = defaultdict(list)
        self.settling: set[int] = set()
        self.out: dict[str, tuple[int, float]] = {}  # by key: which, and until when its lease is surely whole
        self.free: Counter[int] = Counter()
        self.done = 0

    def take(self, delivery: Delivery[Any], until: float) -> None:
        key, number = delivery.message.key, int(delivery.message.body)
        if key is None:
            return
        first = next(n for n in self.waiting[key] if n == number or n not in self.settling)
        assert first == number, f"{number} of {key} came before {first}"
        other = self.out.get(key)
        assert other is None or time.monotonic() >= other[1], f"{number} of {key} came while {other} was out"
        self.out[key] = number, until

    async def settle(self, broker: RedisStreamsBroker, delivery: Delivery[Any], outcome: Outcome) -> None:
        key, number, good = delivery.message.key, int(delivery.message.body), isinstance(outcome, Ack | DeadLetter)
        if key is not None and self.out.get(key, (None,))[0] == number:
            del self.out[key]
        if good:
            self.settling.add(number)
        lost = await settle(broker, delivery, outcome)
        self.settling.discard(number)
        if good and not lost:
            self.done += 1
            if key is None:
                self.free[number] += 1
            else:
                self.waiting[key].remove(number)


class Fleet:
    """Owners that take, work and settle, forget what they hold, crash and are replaced; a publisher; a scheduler."""

    def __init__(self, make: Make, seed: int, total: int) -> None:
        self.make, self.dice, self.total = make, random.Random(seed), total
        self.referee, self.stop = Referee(), asyncio.Event()
        self.subscription = replace(KEYED, lease=0.5)

    async def seat(self) -> None:
        while not self.stop.is_set():
            await self.life(self.make())

    async def life(self, broker: RedisStreamsBroker) -> None:
        """One owner, until it crashes."""
        dice, look = self.dice, self.subscription
        outcomes: list[Outcome] = [*[ACK] * 12, DeadLetter("no"), Retry(0.0), Retry(0.05), Release(), Release(0.05)]
        while not self.stop.is_set():
            until = time.monotonic() + look.lease - 0.01  # the server counts in milliseconds
            found = [*await broker.fetch(look, dice.randint(1, 8), 0.05), *await broker.reclaim(look, 4)]
            for delivery in found:
                self.referee.take(delivery, until)
            await asyncio.sleep(dice.random() * 0.01)
            if dice.random() < 0.02:
                return  # with all that it holds
            for delivery in found:
                if dice.random() > 0.01:  # else its lease will lapse
                    await self.referee.settle(broker, delivery, dice.choice(outcomes))

    async def schedule(self) -> None:
        broker = self.make()
        while not self.stop.is_set():
            await broker.promote_due("s", 50)
            await asyncio.sleep(0.01)

    async def publish(self) -> None:
        broker, sent = self.make(), 0
        while sent < self.total:
            batch = range(sent, min(sent + self.dice.randint(1, 60), self.total))
            keys = [self.dice.choice(("hot", "hot", "hot", "a", "b", "c", "d", None)) for _ in batch]
            for key, number in zip(keys, batch, strict=True):
                if key is not None:
                    self.referee.waiting[key].append(number)
            sent += len(batch)
            await broker.publish([outgoing(str(n), key) for key, n in zip(keys, batch, strict=True)])
            await asyncio.sleep(0.02)

    async def run(self, within: float) -> None:
        jobs = (self.seat(), self.seat(), self.seat(), self.seat(), self.schedule(), self.publish())
        tasks, deadline = [asyncio.create_task(job) for job in jobs], time.monotonic() + within
        while self.referee.done < self.total and time.monotonic() < deadline:
            if any(task.done() and task.exception() for task in tasks):
                break
            await asyncio.sleep(0.02)
        self.stop.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("seed", [11, 12])
async def test_a_fleet_that_crashes_retries_and_loses_leases_keeps_every_key_in_order(make: Make, seed: int):
    fleet = Fleet(make, seed, total=500)
    await fleet.run(within=100.0)
    referee = fleet.referee
    assert fleet.total == referee.done
    assert {1} == set(referee.free.values())
    assert not any(referee.waiting.values())
    stats = await make().stats("s")
    assert (0, 0, [(0, 0)]) == (stats.size, stats.delayed, [(group.leased, group.lag) for group in stats.groups])


# ----------------------------------------------------------------------------------------------------------- consumers


@pytest.mark.parametrize("batch", [None, Batch(size=5, wait=0.01)])
async def test_two_workers_keep_the_order_of_each_key_between_them(redis_url: str, batch: Batch | None):
    handled: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    who: set[int] = set()

    async def one(job: dict[str, int], context: Context, worker: int) -> None:
        key = context.key or ""
        assert key not in running
        running.add(key)
        await asyncio.sleep(0.002)
        running.discard(key)
        who.add(worker)
        if job["n"] % 10 == 3 and context.attempt == 0:
            raise ConnectionError
        handled[key].append(job["n"])

    def consumer(worker: int) -> Consumer[Any]:
        async def handle(job: dict[str, int], context: Context) -> None:
            await one(job, context, worker)

        async def handle_all(jobs: list[dict[str, int]], contexts: list[Context]) -> None:
            keys = [context.key for context in contexts]
            assert len(set(keys)) == len(keys)
            for job, context in zip(jobs, contexts, strict=True):
                handled[context.key or ""].append(job["n"])
            who.add(worker)

        terms: dict[str, Any] = {
            "ordered": "everywhere",
            "retry": RetryPolicy(max_attempts=3, backoff=0.01),
            "claim": Claim(min_idle=5.0),
            "concurrency": 4,
        }
        if batch is not None:
            return Consumer(open_broker(redis_url), "s", dict, handle_all, batch=batch, **terms)
        return Consumer(open_broker(redis_url), "s", dict, handle, **terms)

    consumers = [consumer(n) for n in range(2)]
    assert all(each.subscription.keyed for each in consumers)
    producer = Producer(open_broker(redis_url), "s", dict)
    async with Worker(consumers[0]), Worker(consumers[1]):
        await producer.send_many([Send({"n": n}, key=f"k{n % 7}") for n in range(210)])
        async with asyncio.timeout(PATIENCE):
            while sum(each.counters.acked for each in consumers) < 210:
                await asyncio.sleep(0.01)
    await producer.broker.close()
    for n in range(7):
        assert list(range(n, 210, 7)) == handled[f"k{n}"]
    assert batch is not None or {0, 1} == who


def test_order_everywhere_is_refused_where_the_broker_cannot_keep_it():
    async def handle(job: dict[str, int]) -> None: ...

    with pytest.raises(UnsupportedFeature, match="ordered=True, or use a broker whose capabilities have keyed"):
        Consumer(open_broker("sidekiq+redis://localhost"), "s", dict, handle, ordered="everywhere")


def test_a_mistyped_order_is_refused(redis_url: str):
    async def handle(job: dict[str, int]) -> None: ...

    wrong: Any = "everwhere"
    with pytest.raises(ConfigurationError, match="ordered is one of True, False, 'everywhere'"):
        Consumer(open_broker(redis_url), "s", dict, handle, ordered=wrong)


# ------------------------------------------------------------------------------------------------------------- plumbing


def outgoing(body: str, key: str | None) -> Outgoing:
    return Outgoing(destination="s", message=Message(type="t", body=body.encode(), key=key))


async def send(broker: RedisStreamsBroker, *names: str) -> Any:
    """Messages named for their keys: ``a1`` has the key ``a``."""
    return await broker.publish([outgoing(name, name[0]) for name in names])


async def settle(broker: RedisStreamsBroker, delivery: Delivery[Any], outcome: Outcome) -> Any:
    return list(await broker.settle([Settlement(delivery=delivery, outcome=outcome)]))


async def blocked(server: Server) -> None:
    """Wait until somebody waits in a blocking read."""
    deadline = time.monotonic() + PATIENCE
    while not server.call("INFO", "clients")["blocked_clients"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def bodies(deliveries: Any) -> list[bytes]:
    return [d.message.body for d in deliveries]
