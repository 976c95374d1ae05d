"""Jobs, hooks and middleware that are not what they should be: none of them costs a job, or runs one once too often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from penstock import Worker
from penstock.broker import Settlement, Subscription
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.clients.redis import ReplyError
from penstock.errors import ArgumentError, BrokerError, DecodeError
from penstock.job import Job
from penstock.job_registry import Jobs
from penstock.outcome import Outcome, Retry
from penstock.sidekiq import Client, Data, DeadSet, RetrySet
from penstock.sidekiq.chain import Chain
from penstock.sidekiq.handlers import Handlers
from penstock.sidekiq.processor import Processor, ProcessorOptions
from tests.servers.redis_server import Server

SUB = Subscription(source="q", lease=30.0)
ARGS = '[1, 2.50, 1E5, {"a b" : "c \\/ \\u00e9 \\ud83d\\ude00 \\\\ \\u0001"}, [ ]]'
TOLD = '[1,2.50,1E5,{"a b":"c / é 😀 \\\\ \\u0001"},[]]'


def exits(*_: Any) -> None:
    raise SystemExit(3)


def cancels(*_: Any) -> None:
    raise asyncio.CancelledError


async def cancels_later(*_: Any) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


RUDE = [exits, cancels, cancels_later]


def job(number: int = 1, **fields: Any) -> bytes:
    given = {"class": "Bad", "args": [number], "queue": "q", "jid": f"j{number}", "created_at": 1, **fields}
    return json.dumps(given, separators=(",", ":")).encode()


def members(server: Server, name: str) -> list[bytes]:
    found: list[bytes] = server.call("ZRANGE", name, 0, -1)
    return found


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[SidekiqBroker]:
    broker = SidekiqBroker.from_url(f"sidekiq+{redis_url}")
    yield broker
    await broker.close()


@pytest.fixture
async def data(redis_url: str) -> AsyncIterator[Data]:
    async with Data.from_url(f"sidekiq+{redis_url}") as data:
        yield data


async def settled(server: Server, broker: SidekiqBroker, raw: bytes, outcome: Outcome) -> None:
    server.call("LPUSH", "queue:q", raw)
    (delivery,) = await broker.fetch(SUB, 1, 0.0)
    assert [] == await broker.settle([Settlement(delivery=delivery, outcome=outcome)])


async def worked_off(server: Server, broker: SidekiqBroker, *raws: bytes, **given: Any) -> int:
    """Run jobs of class ``Bad``, which fail, until all have been settled; how often one ran."""
    ran, hooks = 0, given.pop("hooks", {})

    class Bad(Job):
        async def perform(self, *_args: Any) -> None:
            nonlocal ran
            ran += 1
            raise RuntimeError("as ever")

    for name, hook in hooks.items():
        getattr(Bad, name)(hook)
    jobs: Jobs[Any] = Jobs()
    jobs.add(Bad, "Bad")
    processor = Processor(jobs, ProcessorOptions(handlers=Handlers(**given)))
    for raw in raws:
        server.call("LPUSH", "queue:q", raw)
    async with Worker(processor.consumer(broker, "q")), asyncio.timeout(10):
        while int(server.call("GET", "stat:processed") or 0) < len(raws):
            await asyncio.sleep(0.005)
    return ran


# ------------------------------------------------------------------------------------------------------ hooks, handlers


@pytest.mark.parametrize("rude", RUDE)
@pytest.mark.parametrize("where", ["retries_exhausted", "deaths", "errors"])
async def test_a_hook_that_exits_does_not_make_a_job_run_that_has_had_its_tries(
    broker: SidekiqBroker, shared_server: Server, where: str, rude: Callable[..., Any]
) -> None:
    given: dict[str, Any] = {"hooks": {where: rude}} if where == "retries_exhausted" else {where: [rude]}
    assert 2 == await worked_off(shared_server, broker, job(1, retry=0), job(2, retry=False), **given)
    assert [] == members(shared_server, "retry")
    (dead,) = members(shared_server, "dead")
    assert ("j1", "as ever") == (json.loads(dead)["jid"], json.loads(dead)["error_message"])


@pytest.mark.parametrize("rude", RUDE)
async def test_a_retry_in_that_exits_leaves_the_usual_curve_and_the_jobs_own_error(
    broker: SidekiqBroker, shared_server: Server, rude: Callable[..., Any]
) -> None:
    await worked_off(shared_server, broker, job(), hooks={"retry_in": rude})
    (again,) = members(shared_server, "retry")
    assert ("as ever", "RuntimeError") == (json.loads(again)["error_message"], json.loads(again)["error_class"])


@pytest.mark.parametrize("answer", [None, 5, ["\ud800"], [object()], ["x"]])
async def test_a_cleaner_may_answer_anything(broker: SidekiqBroker, shared_server: Server, answer: Any) -> None:
    broker.clean_backtraces(lambda _lines: answer)
    assert 2 == await worked_off(shared_server, broker, job(1, backtrace=True), job(2, backtrace=3))
    assert all("error_backtrace" in json.loads(raw) for raw in members(shared_server, "retry"))
    assert 2 == len(members(shared_server, "retry"))


# ----------------------------------------------------------------------------------------------------------------- jobs


async def test_what_lies_deeper_than_ruby_reads_dies_as_it_is_and_does_not_run(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    """The job itself is one level: it may have 99 arrays in each other."""
    flat, deep = (job(n).replace(b"[%d]" % n, b"[" * levels + b"]" * levels) for n, levels in ((1, 99), (2, 100)))
    assert 1 == await worked_off(shared_server, broker, flat, deep)
    assert (1, [deep]) == (len(members(shared_server, "retry")), members(shared_server, "dead"))


async def test_a_count_of_null_is_none_and_a_negative_one_keeps_no_error_from_being_told(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    await worked_off(shared_server, broker, job(1, retry_count=None), job(2, retry_count=-5))
    first, second = sorted((json.loads(raw) for raw in members(shared_server, "retry")), key=lambda each: each["jid"])
    assert (0, True, False) == (first["retry_count"], "failed_at" in first, "retried_at" in first)
    assert (-4, "as ever") == (second["retry_count"], second["error_message"])


@pytest.mark.parametrize("key", [5, None, ["x"], {"x": 1}])
async def test_a_field_key_of_a_strangers_keeps_no_job_from_running(
    broker: SidekiqBroker, shared_server: Server, key: Any
) -> None:
    assert 1 == await worked_off(shared_server, broker, job(key=key))
    (again,) = members(shared_server, "retry")
    assert key == json.loads(again)["key"]


async def test_a_retry_is_written_as_ruby_would_write_it_whoever_wrote_the_job(
    broker: SidekiqBroker, shared_server: Server
) -> None:
    """Ruby reschedules by writing the job anew: a member that it would write in another way it doubles."""
    raw = f'{{"class": "Bad", "args": {ARGS}, "queue": "q", "jid": "j"}}'.encode()
    await settled(shared_server, broker, raw, Retry(60.0, RuntimeError("no")))
    (again,) = members(shared_server, "retry")
    assert again.startswith(f'{{"class":"Bad","args":{TOLD},"queue":"q","jid":"j","error_message"'.encode())


# ------------------------------------------------------------------------------------------------ the data, middleware


@pytest.mark.parametrize("act", ["retry", "retry_all", "add_all_to_queue"])
async def test_a_job_whose_queue_is_no_list_stays_in_its_set_at_its_time(
    data: Data, shared_server: Server, act: str
) -> None:
    shared_server.call("SET", "queue:q", "no list")
    shared_server.call("ZADD", "retry", 4.5, job(1), 5.5, job(2, queue="other"))  # type: ignore[arg-type]
    entry, _ = sorted([each async for each in RetrySet(data)], key=lambda each: each.score)
    with pytest.raises((ReplyError, BrokerError)):
        await (entry.retry() if act == "retry" else getattr(RetrySet(data), act)())
    assert 4.5 == float(shared_server.call("ZSCORE", "retry", job(1)))
    assert (act != "retry") == bool(shared_server.call("LLEN", "queue:other"))


async def test_a_job_that_cannot_be_killed_stays_in_its_set(data: Data, shared_server: Server) -> None:
    shared_server.call("SET", "dead", "no set")
    shared_server.call("ZADD", "retry", 4.5, job())  # type: ignore[arg-type]
    (entry,) = [each async for each in RetrySet(data)]
    with pytest.raises((ReplyError, BrokerError)):
        await entry.kill()
    assert 4.5 == float(shared_server.call("ZSCORE", "retry", job()))


async def test_a_job_that_is_killed_beside_an_equal_dead_one_is_a_second_dead_one(
    data: Data, shared_server: Server
) -> None:
    shared_server.call("ZADD", "dead", 1, job())  # type: ignore[arg-type]
    data.options = data.options.__class__(dead_timeout=1e10)
    shared_server.call("ZADD", "retry", 1, job())  # type: ignore[arg-type]
    assert 1 == await RetrySet(data).kill_all()
    assert 2 == await DeadSet(data).size()


@pytest.mark.parametrize("made", [{}, {"class": "T"}, {"class": "T", "args": 5}, {"class": 5, "args": [], 7: 1}])
async def test_what_a_middleware_spoils_does_not_reach_a_queue(
    broker: SidekiqBroker, data: Data, shared_server: Server, made: dict[Any, Any]
) -> None:
    async def spoil(_payload: dict[str, Any]) -> dict[str, Any]:
        return made

    broker.repush = data.repush = spoil
    shared_server.call("ZADD", "schedule", 1, job())  # type: ignore[arg-type]
    shared_server.call("ZADD", "retry", 1e12, job(2))  # type: ignore[arg-type]
    await broker.promote_due("q", 10)
    (entry,) = [each async for each in RetrySet(data)]
    with pytest.raises(DecodeError):
        await entry.retry()
    assert ([job()], [job(2)]) == (members(shared_server, "schedule"), members(shared_server, "retry"))
    assert 0 == shared_server.call("LLEN", "queue:q")


@pytest.mark.parametrize("wrong", [{"args": "text"}, {"args": None}, {"class": 5}, {"queue": ""}])
async def test_a_push_that_a_middleware_spoils_is_refused(
    broker: SidekiqBroker, shared_server: Server, wrong: dict[str, Any]
) -> None:
    class Spoil:
        async def call(self, _job: Any, payload: dict[str, Any], *_: Any) -> dict[str, Any]:
            return {**payload, **wrong}

    chain = Chain()
    chain.add(Spoil)
    with pytest.raises(ArgumentError, match="a middleware returns"):
        await Client(broker, middleware=chain).push({"class": "T", "args": [1], "queue": "q"})
    assert [] == shared_server.call("KEYS", "queue*")
