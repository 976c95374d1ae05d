"""The windows in which Ruby's Sidekiq, or sidekiq-ts, loses, doubles or garbles a job: here it does none of it.

``L1`` … ``L8`` are the loss windows of Ruby's worker, ``T1`` … ``T15`` the defects of sidekiq-ts that concern a driver.
Processes that are killed and frozen are in ``tests/end_to_end`` (L1), random calls in ``tests/simulation``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from penstock.broker import Outgoing, Presence, Settlement, Subscription
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.brokers.sidekiq.scheduling import LATER
from penstock.errors import BrokerError, ConfigurationError, ConnectionFailed
from penstock.message import Delivery, Message
from penstock.outcome import ACK, DISCARDED, DeadLetter, Outcome, Release, Retry
from penstock.testing.proxy import FaultProxy
from tests.servers.redis_server import OwnServer, Server

SUB = Subscription(source="q", lease=30.0)
GARBAGE = [b"{not json", b"2", b"null", b'"x"', b"[1]", b"{}", b"\xff", b'{"class":5,"args":[],"queue":"q"}', b""]

Make = Callable[..., SidekiqBroker]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    made: list[SidekiqBroker] = []

    def make(url: str = redis_url, **options: Any) -> SidekiqBroker:
        made.append(SidekiqBroker.from_url(f"sidekiq+{url}", **options))
        return made[-1]

    yield make
    for broker in made:
        await broker.close()


@pytest.fixture
async def broker(make: Make) -> SidekiqBroker:
    return make()


def job(number: Any = 1, **fields: Any) -> bytes:
    given = {"class": "T", "args": [number], "queue": "q", "jid": f"j{number}", "created_at": 1, **fields}
    return json.dumps(given, separators=(",", ":")).encode()


def push(server: Server, *raws: bytes) -> None:
    for raw in raws:
        server.call("LPUSH", "queue:q", raw)  # type: ignore[arg-type]


def queued(server: Server) -> list[bytes]:
    """The next one out first."""
    found: list[bytes] = server.call("LRANGE", "queue:q", 0, -1)[::-1]
    return found


def members(server: Server, name: str) -> list[bytes]:
    found: list[bytes] = server.call("ZRANGE", name, 0, -1)
    return found


def at_work(server: Server) -> int:
    return sum(server.call("LLEN", key) for key in server.call("KEYS", "pq:inflight:*"))


async def settle(
    broker: SidekiqBroker, deliveries: Sequence[Delivery[Any]], outcome: Outcome
) -> Sequence[Delivery[Any]]:
    return await broker.settle([Settlement(delivery=delivery, outcome=outcome) for delivery in deliveries])


# ------------------------------------------------------------------------------------- L2, L3: the scheduler's moves


@pytest.mark.parametrize("name", ["retry", "schedule"])
async def test_l2_a_job_whose_middleware_fails_stays_and_is_due_again_later(
    broker: SidekiqBroker, shared_server: Server, name: str
) -> None:
    async def fail(_payload: dict[str, Any]) -> None:
        raise RuntimeError("middleware")

    broker.repush = fail
    shared_server.call("ZADD", name, 1, job())  # type: ignore[arg-type]
    before = shared_server.call("TIME")[0]
    await broker.promote_due("q", 100)
    ((raw, score),) = _scores(shared_server, name)
    assert (job(), []) == (raw, queued(shared_server))
    assert before + LATER - 1 < score < before + LATER + 10

    broker.repush = None
    shared_server.call("ZADD", name, 1, raw)
    await broker.promote_due("q", 100)
    assert [] == members(shared_server, name)
    assert 1 == len(queued(shared_server))


async def test_l2_middleware_may_refuse_a_job_or_change_it(broker: SidekiqBroker, shared_server: Server) -> None:
    async def choose(payload: dict[str, Any]) -> dict[str, Any] | None:
        return None if payload["args"] == [1] else {**payload, "tags": ["x"], "queue": "other"}

    broker.repush = choose
    shared_server.call("ZADD", "schedule", 1, job(1), 1, job(2))  # type: ignore[arg-type]
    await broker.promote_due("q", 100)
    (raw,) = shared_server.call("LRANGE", "queue:other", 0, -1)
    assert ([2], ["x"]) == (json.loads(raw)["args"], json.loads(raw)["tags"])
    assert ([], []) == (members(shared_server, "schedule"), queued(shared_server))


async def test_l2_what_middleware_makes_unwritable_stays_and_its_neighbours_go(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    async def spoil(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "tags": object()} if payload["args"] == [1] else payload

    broker.repush = spoil
    shared_server.call("ZADD", "schedule", 1, job(1), 1, job(2))  # type: ignore[arg-type]
    await broker.promote_due("q", 100)
    assert [job(1)] == members(shared_server, "schedule")
    assert [[2]] == [json.loads(raw)["args"] for raw in queued(shared_server)]


async def test_l2_a_poller_that_dies_between_reading_and_moving_has_taken_nothing_away(
    broker: SidekiqBroker, make: Make, shared_server: Server
) -> None:
    reached = asyncio.Event()

    async def hang(_payload: dict[str, Any]) -> None:
        reached.set()
        await asyncio.Event().wait()

    broker.repush = hang
    shared_server.call("ZADD", "retry", 1, job())  # type: ignore[arg-type]
    dying = asyncio.create_task(broker.promote_due("q", 100))
    await reached.wait()
    assert 1 == (await make().promote_due("q", 100)).count
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert (1, []) == (len(queued(shared_server)), members(shared_server, "retry"))


async def test_t13_a_job_that_somebody_else_moved_meanwhile_is_neither_moved_again_nor_brought_back(
    make: Make, shared_server: Server
) -> None:
    first, second = make(), make()
    answers: list[Any] = [RuntimeError("middleware"), "as it is", None]

    async def meanwhile(payload: dict[str, Any]) -> dict[str, Any] | None:
        await second.promote_due("q", 100)
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return None if answer is None else payload

    first.repush = meanwhile
    for number in range(3):
        shared_server.call("ZADD", "retry", 1, job(number))  # type: ignore[arg-type]
        await first.promote_due("q", 100)
    assert [[0], [1], [2]] == [json.loads(raw)["args"] for raw in queued(shared_server)]
    assert [] == members(shared_server, "retry")


@pytest.mark.parametrize("name", ["retry", "schedule"])
@pytest.mark.parametrize("middleware", [False, True])
async def test_l3_what_is_due_and_no_job_goes_to_the_dead_as_it_is_and_its_neighbours_to_their_queue(
    broker: SidekiqBroker, shared_server: Server, name: str, *, middleware: bool
) -> None:
    async def same(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    broker.repush = same if middleware else None
    nameless = [job(3, queue=None), job(4, queue=""), job(5, queue=7)]
    for raw in (*GARBAGE, *nameless, job()):
        shared_server.call("ZADD", name, 1, raw)  # type: ignore[arg-type]
    await broker.promote_due("q", 100)
    assert [] == members(shared_server, name)
    assert {*GARBAGE, *nameless} == set(members(shared_server, "dead"))
    assert 1 == len(queued(shared_server))


async def test_a_text_that_is_no_unicode_does_not_hold_up_what_is_due(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    async def same(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    broker.repush = same
    wrong = b'{"class":"T","args":["\xff"],"queue":"q","jid":"x"}'
    shared_server.call("ZADD", "retry", 1, wrong, 2, job())  # type: ignore[arg-type]
    await broker.promote_due("q", 100)
    assert ([wrong], 1) == (members(shared_server, "dead"), len(queued(shared_server)))


# -------------------------------------------------------------------------------------------- L3, L4: what is no job


async def test_l4_what_is_no_job_comes_with_a_defect_and_dies_as_it_is(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    push(shared_server, *GARBAGE, job())
    found = await broker.fetch(SUB, 100, 0.0)
    assert [True] * len(GARBAGE) + [False] == [delivery.defect is not None for delivery in found]
    assert [] == await settle(broker, found[:-1], DeadLetter("undecodable"))
    assert [] == await settle(broker, found[-1:], ACK)
    assert set(GARBAGE) == set(members(shared_server, "dead"))
    assert 0 == at_work(shared_server)
    assert set(GARBAGE) == {letter.raw for letter in await broker.dead("q", 100)}


@pytest.mark.parametrize(
    "fields",
    [
        {"created_at": int("1" + "0" * 400)},
        {"enqueued_at": "yesterday"},
        {"enqueued_at": None},
        {"enqueued_at": True},
        {"retry_count": None},
        {"tags": None},
        {"at": "soon"},
    ],
)
async def test_strange_values_where_nothing_depends_on_them_do_not_keep_a_job_from_running(
    broker: SidekiqBroker, shared_server: Server, fields: dict[str, Any]
) -> None:
    push(shared_server, job(1, **fields))
    (delivery,) = await broker.fetch(SUB, 10, 0.0)
    assert (None, 0, b"[1]") == (delivery.defect, delivery.attempt, delivery.message.body)
    assert [] == await settle(broker, [delivery], ACK)


@pytest.mark.parametrize(
    "fields",
    [
        {"backtrace": "yes"},
        {"backtrace": [1]},
        {"backtrace": -1},
        {"backtrace": 1e300},
        {"retry_queue": None},
        {"retry_queue": ""},
        {"retry_queue": 5},
    ],
)
async def test_strange_options_do_not_keep_a_failure_from_being_written_nor_the_job_from_coming_back(
    broker: SidekiqBroker, shared_server: Server, fields: dict[str, Any]
) -> None:
    push(shared_server, job(1, **fields))
    assert [] == await settle(broker, await broker.fetch(SUB, 10, 0.0), Retry(0.0, ValueError("no")))
    await broker.promote_due("q", 10)
    (again,) = await broker.fetch(SUB, 10, 0.0)
    assert (1, None) == (again.attempt, again.defect)


async def test_a_cleaner_that_fails_costs_no_failure(broker: SidekiqBroker, shared_server: Server) -> None:
    def fail(_lines: list[str]) -> list[str]:
        raise RuntimeError("cleaner")

    broker.clean_backtraces(fail)
    push(shared_server, job(1, backtrace=True))
    assert [] == await settle(broker, await broker.fetch(SUB, 10, 0.0), Retry(60.0, ValueError("no")))
    assert "error_backtrace" in json.loads(members(shared_server, "retry")[0])


# ---------------------------------------------------------------------------------------- L5, L7: Redis out of reach


async def test_l5_a_failure_that_cannot_be_written_now_is_written_later(make: Make, durable_server: OwnServer) -> None:
    async with FaultProxy("127.0.0.1", durable_server.port) as proxy:
        broker = make(f"redis://127.0.0.1:{proxy.port}/0", timeout=1.0)
        push(durable_server, job())
        found = await broker.fetch(SUB, 10, 0.0)
        proxy.refuse()
        with pytest.raises(ConnectionFailed):
            await settle(broker, found, Retry(60.0, ValueError("no")))
        assert 1 == at_work(durable_server)
        await proxy.listen()
        assert [] == await settle(broker, found, Retry(60.0, ValueError("no")))
        assert (0, 1) == (at_work(durable_server), len(members(durable_server, "retry")))


async def test_l7_a_worker_that_stops_gives_back_what_it_holds_and_in_order(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    push(shared_server, *(job(n) for n in range(5)))
    await broker.fetch(SUB, 3, 0.0)
    await broker.close()
    assert [job(n) for n in range(5)] == queued(shared_server)
    assert [] == shared_server.call("KEYS", "pq:*")


async def test_l7_what_cannot_be_given_back_comes_back_with_its_lease(make: Make, durable_server: OwnServer) -> None:
    short = Subscription(source="q", lease=0.2)
    async with FaultProxy("127.0.0.1", durable_server.port) as proxy:
        broker = make(f"redis://127.0.0.1:{proxy.port}/0", timeout=1.0)
        push(durable_server, job())
        await broker.fetch(short, 10, 0.0)
        proxy.refuse()
        await broker.close()
    other = make(durable_server.url)
    async with asyncio.timeout(10):
        while not (found := await other.reclaim(short, 10)):
            await asyncio.sleep(0.02)
    assert (2, "j1") == (found[0].count, found[0].message.id)


# -------------------------------------------------------------------------------------------- Redis refuses to write


async def test_a_server_that_has_become_a_replica_loses_nothing(make: Make, durable_server: OwnServer) -> None:
    broker = make(durable_server.url)
    push(durable_server, job(1), job(2))
    durable_server.call("ZADD", "retry", 1, job(3))  # type: ignore[arg-type]
    (held,) = await broker.fetch(SUB, 1, 0.0)
    durable_server.call("REPLICAOF", "127.0.0.1", 1)
    for refused in (
        broker.fetch(SUB, 1, 0.0),
        settle(broker, [held], ACK),
        settle(broker, [held], Retry(1.0)),
        broker.promote_due("q", 10),
        broker.publish([Outgoing(destination="q", message=Message(type="T", body=b"[]"))]),
    ):
        with pytest.raises(ConnectionFailed, match="READONLY"):
            await refused
    durable_server.call("REPLICAOF", "NO", "ONE")
    assert ([job(2)], [job(3)]) == (queued(durable_server), members(durable_server, "retry"))
    assert [] == await settle(broker, [held], ACK)
    await broker.promote_due("q", 10)
    assert 2 == len(queued(durable_server))


async def test_a_server_out_of_memory_takes_no_jobs_but_gives_them_out_and_takes_every_outcome(
    make: Make, durable_server: OwnServer
) -> None:
    broker = make(durable_server.url)
    await broker.open()
    push(durable_server, *(job(n) for n in range(6)))
    durable_server.call("ZADD", "schedule", 1, job(7))  # type: ignore[arg-type]
    durable_server.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(BrokerError, match="OOM"):
        await broker.publish([Outgoing(destination="q", message=Message(type="T", body=b"[]"))])
    found = await broker.fetch(SUB, 6, 0.0)
    assert 6 == len(found)
    outcomes = (ACK, DISCARDED, Retry(60.0), DeadLetter(""), Release(), Retry(60.0, counts=False))
    pairs = zip(found, outcomes, strict=True)
    assert [] == await broker.settle([Settlement(delivery=d, outcome=outcome) for d, outcome in pairs])
    await broker.promote_due("q", 10)
    counts = {name: len(members(durable_server, name)) for name in ("retry", "dead", "schedule")}
    assert ({"retry": 1, "dead": 1, "schedule": 1}, 2) == (counts, len(queued(durable_server)))
    assert [] == await settle(broker, await broker.fetch(SUB, 6, 0.0), ACK)
    assert [] == await broker.fetch(SUB, 6, 0.1)  # nobody may wait then, but one may look


async def test_a_user_without_the_right_to_our_keys_destroys_nothing(make: Make, durable_server: OwnServer) -> None:
    durable_server.call(
        "ACL", "SETUSER", "ruby", "on", ">x", "+@all", "~queue:*", "~queues", "~retry", "~schedule", "~stat:*"
    )
    broker = make(durable_server.url.replace("//", "//ruby:x@"))
    push(durable_server, job())
    with pytest.raises(BrokerError):
        await broker.fetch(SUB, 10, 0.0)
    assert [job()] == queued(durable_server)
    durable_server.call("ACL", "SETUSER", "ruby", "~pq:*")
    (delivery,) = await broker.fetch(SUB, 10, 0.0)
    with pytest.raises(BrokerError):  # it has no right to the dead
        await settle(broker, [delivery], DeadLetter("no", ValueError("no")))
    assert [] == await settle(broker, [delivery], ACK)


async def test_a_queue_of_another_type_holds_up_nobody_else(broker: SidekiqBroker, shared_server: Server) -> None:
    shared_server.call("SET", "queue:odd", "no list")
    shared_server.call("ZADD", "schedule", 1, job(1, queue="odd"), 2, job(2))  # type: ignore[arg-type]
    await broker.promote_due("q", 100)
    assert [job(1, queue="odd")] == members(shared_server, "schedule")
    assert [[2]] == [json.loads(raw)["args"] for raw in queued(shared_server)]


async def test_jobs_of_a_fetch_that_failed_in_its_second_queue_are_not_stuck(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    both = Subscription(source="both", queues=("q", "odd"))
    shared_server.call("SET", "queue:odd", "no list")
    push(shared_server, job())
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.fetch(both, 10, 0.0)
    (delivery,) = await broker.fetch(both, 10, 0.0)
    assert ("j1", 1) == (delivery.message.id, delivery.count)


# ------------------------------------------------------------------------------------------------ equal texts and jids


async def test_equal_texts_stay_as_many_as_they_are_through_every_set(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    push(shared_server, *[job()] * 5)
    outcomes: Sequence[tuple[Outcome, str]] = (
        (Release(60.0), "schedule"),
        (Retry(60.0, counts=False), "schedule"),
        (Retry(60.0), "retry"),
        (DeadLetter("", RuntimeError("no")), "dead"),
    )
    for outcome, name in outcomes:
        found = await broker.fetch(SUB, 5, 0.0)
        assert ["j1", "j1#2", "j1#3", "j1#4", "j1#5"] == [delivery.message.id for delivery in found]
        assert [] == await settle(broker, found, outcome)
        kept = members(shared_server, name)
        assert 5 == len(kept)
        assert [{"T", "j1"}] * 5 == [{each["class"], each["jid"]} for each in map(json.loads, kept)]
        if name == "dead":
            assert 5 == await broker.requeue_dead("q", [letter.id for letter in await broker.dead("q", 10)])
        else:
            for raw in kept:
                shared_server.call("ZADD", name, 1, raw)
            assert 5 == (await broker.promote_due("q", 10)).count
    found = await broker.fetch(SUB, 5, 0.0)
    assert 5 == len(found)
    assert {} == {name: value for each in found for name, value in each.message.headers.items()}


async def test_equal_texts_of_a_dead_owner_come_each_to_hand_and_can_each_be_settled(
    make: Make, shared_server: Server
) -> None:
    short = Subscription(source="q", lease=0.1)
    dead, heir = make(), make()
    push(shared_server, *[job()] * 3)
    assert 3 == len(await dead.fetch(short, 3, 0.0))
    found: list[Delivery[Any]] = []
    async with asyncio.timeout(10):
        while len(found) < 3:
            found += await heir.reclaim(SUB, 10)
            await asyncio.sleep(0.02)
    assert 3 == len({delivery.message.id for delivery in found})
    assert [] == await heir.extend(found, 30.0)
    assert [] == await settle(heir, found, ACK)
    assert 0 == at_work(shared_server)
    assert 3 == int(shared_server.call("GET", "stat:processed"))


async def test_jobs_with_one_jid_are_jobs_of_their_own(broker: SidekiqBroker, shared_server: Server) -> None:
    push(shared_server, *(job(n, jid="one") for n in range(3)))
    found = await broker.fetch(SUB, 10, 0.0)
    assert ["one", "one#2", "one#3"] == [delivery.message.id for delivery in found]
    assert [b"[0]", b"[1]", b"[2]"] == [delivery.message.body for delivery in found]
    assert [] == await settle(broker, found[1:2], Retry(60.0))
    assert [] == await settle(broker, [found[0], found[2]], ACK)
    assert [{"args": [1], "jid": "one"}] == [
        {name: json.loads(raw)[name] for name in ("args", "jid")} for raw in members(shared_server, "retry")
    ]


# ----------------------------------------------------------------------------------------------- leases and forgetting


async def test_what_is_forgotten_lapses_although_its_owner_goes_on_fetching(make: Make, shared_server: Server) -> None:
    """As when an outcome could not be written, or a fetch was cut off as it ended."""
    short = Subscription(source="q", lease=0.2)
    owner, other = make(), make()
    push(shared_server, job())
    await owner.fetch(short, 1, 0.0)
    async with asyncio.timeout(10):
        while not (found := await other.reclaim(short, 10)):
            push(shared_server, job(2))
            await settle(owner, await owner.fetch(short, 1, 0.0), ACK)
            await asyncio.sleep(0.01)
    assert ["j1"] == [delivery.message.id for delivery in found]


async def test_what_a_call_took_long_after_it_was_given_up_is_handed_out(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    """As when a network brings, a minute later, what was sent before it broke."""
    short = Subscription(source="q", lease=0.4)
    push(shared_server, job(1), job(2))
    (first,) = await broker.fetch(short, 1, 0.0)
    (list_,) = shared_server.call("KEYS", "pq:inflight:*")
    shared_server.call("LMOVE", "queue:q", list_, "RIGHT", "LEFT")
    async with asyncio.timeout(10):
        while not (found := await broker.fetch(short, 10, 0.0)):
            assert [] == await broker.extend([first], 0.4)
            await asyncio.sleep(0.02)
    assert ["j2"] == [delivery.message.id for delivery in found]
    assert [] == await settle(broker, [first, *found], ACK)


async def test_an_outcome_is_not_refused_because_a_renewal_failed(make: Make, durable_server: OwnServer) -> None:
    async with FaultProxy("127.0.0.1", durable_server.port) as proxy:
        broker, short = make(f"redis://127.0.0.1:{proxy.port}/0", timeout=1.0), Subscription(source="q", lease=0.4)
        push(durable_server, job(1), job(2))
        found = await broker.fetch(short, 2, 0.0)
        await asyncio.sleep(0.25)  # one half of the lease: the second is to be put aside now
        proxy.refuse()
        with pytest.raises(ConnectionFailed):
            await broker.extend(found[:1], 0.4)
        await proxy.listen()
        assert [] == await settle(broker, found, ACK)
        assert 0 == at_work(durable_server)


async def test_a_robbed_owner_is_told_each_time_it_asks(make: Make, shared_server: Server) -> None:
    short = Subscription(source="q", lease=0.1)
    owner, robber = make(), make()
    push(shared_server, job(1), job(2))
    found = await owner.fetch(short, 2, 0.0)
    taken: list[Delivery[Any]] = []
    async with asyncio.timeout(10):
        while len(taken) < 2:
            taken += await robber.reclaim(SUB, 10)
            await asyncio.sleep(0.02)
    assert found[:1] == await owner.extend(found[:1], 0.1)
    assert found == await owner.extend(found, 0.1)
    assert found == await settle(owner, found, Retry(1.0))
    assert [] == members(shared_server, "retry")
    assert [] == await settle(robber, taken, ACK)


@pytest.mark.parametrize("identity", ["", "a|b"])
def test_an_identity_that_would_make_keys_ambiguous_is_refused(identity: str) -> None:
    with pytest.raises(ConfigurationError, match="identity"):
        SidekiqBroker.from_url("sidekiq+redis://localhost", identity=identity)


# ----------------------------------------------------------------------- L6, L8, T1, T4, T5, T6, T8: what is written


async def test_l6_a_dead_job_that_is_requeued_twice_is_there_once(make: Make, shared_server: Server) -> None:
    brokers = [make(), make()]
    shared_server.call("ZADD", "dead", 5, job(1), 5, job(2))  # type: ignore[arg-type]
    ids = [letter.id for letter in await brokers[0].dead("q", 10)]
    assert 2 == sum(await asyncio.gather(*(broker.requeue_dead("q", ids) for broker in brokers)))
    assert 2 == len(queued(shared_server))


async def test_l8_t6_what_is_settled_is_counted_at_once_failures_as_processed_too(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    push(shared_server, *(job(n) for n in range(6)))
    found = await broker.fetch(SUB, 6, 0.0)
    outcomes = (ACK, DISCARDED, Retry(60.0), DeadLetter(""), Release(), Retry(60.0, counts=False))
    pairs = zip(found, outcomes, strict=True)
    await broker.settle([Settlement(delivery=delivery, outcome=outcome) for delivery, outcome in pairs])
    assert [b"4", b"3"] == shared_server.call("MGET", "stat:processed", "stat:failed")


@pytest.mark.parametrize(
    "args", ["[]", '[[],{},{"a":[]}]', '[9007199254740993,12345678901234567890123,1e16,5e-324,"/"]']
)
async def test_t1_arguments_come_out_of_the_schedule_and_of_retries_byte_for_byte(
    broker: SidekiqBroker, shared_server: Server, args: str
) -> None:
    await broker.publish([Outgoing(destination="q", message=Message(type="T", body=args.encode()), delay=0.001)])
    for _ in range(3):
        async with asyncio.timeout(10):
            while not (found := await broker.fetch(SUB, 1, 0.0)):
                await broker.promote_due("q", 10)
        assert args.encode() == found[0].message.body
        assert f'"args":{args},'.encode() in found[0].receipt.raw
        await settle(broker, found, Retry(0.0, ValueError("no")))


async def test_t8_a_retry_is_what_was_pushed_and_the_error_and_nothing_else(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    push(shared_server, raw := job(1, tags=["a"], cattr={"x": 1.0}))
    await settle(broker, await broker.fetch(SUB, 1, 0.0), Retry(60.0, ValueError("no")))
    (entry,) = members(shared_server, "retry")
    assert entry.startswith(raw[:-1] + b',"error_message":"no","error_class":"ValueError","failed_at":')
    assert entry.endswith(b',"retry_count":0}')


async def test_t3_a_job_is_on_record_from_the_moment_it_leaves_its_queue(make: Make, shared_server: Server) -> None:
    short = Subscription(source="q", lease=0.2)
    push(shared_server, raw := job())
    (found,) = await make().fetch(short, 1, 0.0)
    (record,) = shared_server.call("KEYS", "pq:inflight:*")
    assert ([], [raw]) == (queued(shared_server), shared_server.call("LRANGE", record, 0, -1))
    other = make()  # the first one is gone without a word
    async with asyncio.timeout(10):
        while not (again := await other.reclaim(short, 10)):
            await asyncio.sleep(0.02)
    assert [(raw, found.count + 1)] == [(each.receipt.raw, each.count) for each in again]


async def test_t4_t5_a_process_is_told_from_one_with_its_pid_and_says_all_that_ruby_reads(
    make: Make, shared_server: Server
) -> None:
    first, second = make(), make()
    assert first.identity != second.identity
    facts: dict[str, Any] = {"host": "h", "pid": 1, "started_at": 1.5, "beat_at": 2.5, "consumers": ("q/default",)}
    presence = Presence(identity=first.identity, concurrency=7, busy=2, quiet=False, rss=1 << 20, version="v", **facts)
    await first.beat(presence, 20.0)
    reply = shared_server.call("HGETALL", first.identity)
    found = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    assert {b"info", b"concurrency", b"busy", b"beat", b"rtt_us", b"quiet", b"rss"} == set(found)
    assert (b"7", b"2", b"false", b"1024") == tuple(found[name] for name in (b"concurrency", b"busy", b"quiet", b"rss"))
    info = json.loads(found[b"info"])
    assert {"concurrency", "capsules", "weights", "queues", "version", "embedded", "identity"} <= set(info)


def _scores(server: Server, name: str) -> list[tuple[bytes, float]]:
    reply = server.call("ZRANGE", name, 0, -1, "WITHSCORES")
    return [(pair[0], float(pair[1])) for pair in (reply if isinstance(reply[0], list | tuple) else [reply])]
