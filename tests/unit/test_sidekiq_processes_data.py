"""The Data API on numbers, processes and what they work on, as Ruby and penstock write them; and the monitor."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import main
from penstock.errors import ArgumentError, UnsupportedFeature
from penstock.sidekiq import Data, History, IterableJobQuery, ProcessSet, ProfileSet, Stats, WorkSet
from tests.servers.redis_server import Server

FOLDER = Path(__file__).parents[1] / "data"
VECTORS = {
    (name, each["scenario"]): each
    for name in ("sidekiq_8", "sidekiq_6_4")
    for each in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
}


@pytest.fixture
async def data(redis_server: Server) -> AsyncIterator[Data]:
    redis_server.flush()
    async with Data.from_url(redis_server.url) as data:
        yield data


def put(server: Server, keys: dict[str, Any]) -> None:
    """Write keys as a vector records them."""
    for key, value in keys.items():
        match value["type"]:
            case "string":
                server.call("SET", key, value["value"])
            case "list":
                server.call("RPUSH", key, *value["items"])
            case "set":
                server.call("SADD", key, *value["members"])
            case "zset":
                for member, score in value["members"]:
                    server.call("ZADD", key, repr(score), member)
            case "hash":
                for field, content in value["fields"]:
                    server.call("HSET", key, field, content)


def job(name: str, **fields: Any) -> str:
    return json.dumps({"class": name, "args": [], "jid": name, "queue": "default", **fields})


# ------------------------------------------------------------------------------------------------------------- numbers


async def test_an_empty_database_has_zeros(data: Data):
    stats = await Stats.of(data)
    assert (0, 0, 0, 0, 0, 0, 0, 0, 0.0, {}) == tuple(getattr(stats, name) for name in stats.__slots__)
    assert [] == await Stats.queue_summaries(data)


async def test_numbers_are_told(data: Data, redis_server: Server):
    redis_server.call("MSET", "stat:processed", 1234, "stat:failed", 5)
    old = data.clock.time() - 60
    for queue, count in (("default", 2), ("low", 3), ("empty", 0)):
        redis_server.call("SADD", "queues", queue)
        for n in range(count):
            redis_server.call("LPUSH", f"queue:{queue}", job(f"{queue}{n}", enqueued_at=old))
    redis_server.call("SADD", "paused", "low")
    for name, count in (("schedule", 1), ("retry", 2), ("dead", 3)):
        for n in range(count):
            redis_server.call("ZADD", name, n, job(f"{name}{n}"))
    redis_server.call("SADD", "processes", "a:1:x", "b:2:y")
    redis_server.call("HSET", "a:1:x", "busy", 4, "info", "{}")
    stats = await Stats.of(data)
    assert (1234, 5, 1, 2, 3) == (
        stats.processed,
        stats.failed,
        stats.scheduled_size,
        stats.retry_size,
        stats.dead_size,
    )
    assert (5, 2, 4) == (stats.enqueued, stats.processes_size, stats.workers_size)
    assert ["low", "default", "empty"] == list(stats.queues)
    assert 59 < stats.default_queue_latency < 90
    found = await Stats.queue_summaries(data)
    assert [("low", 3, True), ("default", 2, False), ("empty", 0, False)] == [(q.name, q.size, q.paused) for q in found]
    assert [True, True, False] == [59 < q.latency < 90 for q in found]


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ((), (b"0", b"0")),
        (("failed",), (b"7", b"0")),
        (("processed", "nonsense"), (b"0", b"7")),
        (("x",), (b"7", b"7")),
    ],
)
async def test_totals_are_set_to_zero(
    data: Data, redis_server: Server, names: tuple[str, ...], left: tuple[bytes, ...]
):
    redis_server.call("MSET", "stat:processed", 7, "stat:failed", 7, "stat:failed:2026-01-01", 7)
    await Stats.reset(data, *names)
    assert left == tuple(redis_server.call("MGET", "stat:processed", "stat:failed"))
    assert b"7" == redis_server.call("GET", "stat:failed:2026-01-01")


async def test_a_history_has_each_day(data: Data, redis_server: Server):
    redis_server.call(
        "MSET", "stat:processed:2026-03-01", 5, "stat:processed:2026-02-28", 6, "stat:failed:2026-02-27", 1
    )
    history = History(data, 3, datetime(2026, 3, 1, tzinfo=UTC).date())
    assert {"2026-03-01": 5, "2026-02-28": 6, "2026-02-27": 0} == await history.processed()
    assert [0, 0, 1] == list((await history.failed()).values())
    today = datetime.fromtimestamp(data.clock.time(), UTC).date().isoformat()
    assert [today] == list(await History(data, 1).failed())


@pytest.mark.parametrize("days", [0, -1, 1826])
def test_a_history_that_cannot_be_is_refused(days: int):
    with pytest.raises(ArgumentError, match="1 to 1825"):
        History(Data.from_url("redis://localhost"), days)


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_rubys_processes_and_their_work_are_read(data: Data, redis_server: Server, version: str):
    vector = VECTORS[version, "heartbeat_and_work_while_busy"]
    put(redis_server, vector["keys"])
    (process,) = [each async for each in ProcessSet(data)]
    assert ("app", 3, 2, False) == (process.tag, process.concurrency, process.busy, process.stopping)
    assert ["critical", "default"] == sorted(process.queues)
    assert process.rss > 0
    assert not process.embedded
    works = [each async for each in WorkSet(data)]
    assert ["critical", "default"] == sorted(work.queue for work in works)
    assert {"PlainJob"} == {work.job.klass for work in works}
    assert [["sleep", 14]] * 2 == [work.job.args for work in works]
    assert {process.identity} == {work.process_id for work in works}
    assert 2 == await WorkSet(data).size()
    found = await WorkSet(data).find_work(str(works[1].job.jid))
    assert found is not None
    assert works[1].thread_id == found.thread_id
    assert await WorkSet(data).find_work("nobody") is None
    assert process.identity == (await ProcessSet(data).get(process.identity) or process).identity
    assert await ProcessSet(data).get("nobody") is None


async def test_the_dead_are_swept_once_a_minute(data: Data, redis_server: Server):
    vector = VECTORS["sidekiq_8", "api_admin"]
    put(redis_server, vector["before"])
    processes = ProcessSet(data)
    assert (2, 1) == (await processes.size(), await processes.cleanup())
    redis_server.call("SADD", "processes", "dead:1:x")
    assert (0, 2) == (await processes.cleanup(), await processes.size())
    (alive,) = [each async for each in processes]
    await alive.quiet()
    await alive.stop()
    signals = f"{alive.identity}-signals"
    assert [b"TERM", b"TSTP"] == redis_server.call("LRANGE", signals, 0, -1)
    assert 0 < redis_server.call("TTL", signals) <= 60
    assert {"processes", signals, alive.identity} <= {key.decode() for key in redis_server.call("KEYS", "*")}


async def test_an_embedded_process_cannot_be_stopped_from_elsewhere(data: Data, redis_server: Server):
    redis_server.call("SADD", "processes", "e:1:x")
    redis_server.call("HSET", "e:1:x", "info", '{"embedded":true}', "quiet", "true", "concurrency", 5, "rss", 100)
    process = await ProcessSet(data).get("e:1:x")
    assert process is not None
    assert (True, True) == (process.embedded, process.stopping)
    for ask in (process.quiet, process.stop):
        with pytest.raises(UnsupportedFeature, match="embedded"):
            await ask()
    await process.dump_threads()
    assert [b"TTIN"] == redis_server.call("LRANGE", "e:1:x-signals", 0, -1)
    assert (5, 100) == (await ProcessSet(data).total_concurrency(), await ProcessSet(data).total_rss())


async def test_the_leader_is_named(data: Data, redis_server: Server):
    assert "" == await ProcessSet(data).leader()
    redis_server.call("SADD", "processes", "a:1:x")
    redis_server.call("HSET", "a:1:x", "info", "{}")
    redis_server.call("SET", "dear-leader", "a:1:x")
    process = await ProcessSet(data).get("a:1:x")
    assert process is not None
    assert await process.leader()


# -------------------------------------------------------------------------------------------- profiles and iterations


async def test_profiles_are_listed_the_latest_first_and_those_that_are_gone_are_not(data: Data, redis_server: Server):
    now = data.clock.time()
    for n, (key, due) in enumerate([("t-old", now - 1), ("t-1", now + 10), ("t-2", now + 20), ("t-lost", now + 30)]):
        redis_server.call("ZADD", "profiles", due, key)
        if key != "t-lost":
            fields = ("started_at", 1_700_000_000 + n, "jid", f"j{n}", "type", "T", "token", "t", "size", 3)
            redis_server.call("HSET", key, *fields, "elapsed", "0.5", "data", "gz!")
    found = [each async for each in ProfileSet(data)]
    assert [("t-2", "j2", 3, 0.5, None), ("t-1", "j1", 3, 0.5, None)] == [
        (p.key, p.jid, p.size, p.elapsed, p.sid) for p in found
    ]
    assert b"gz!" == await found[0].content()
    assert 3 == await ProfileSet(data).size()


async def test_states_of_iterable_jobs_are_read_at_once(data: Data, redis_server: Server):
    vector = VECTORS["sidekiq_8", "iterable_cancel_flag"]
    put(redis_server, vector["keys"])
    redis_server.call("HSET", "it-odd", "ex", 2, "c", "not json")
    (jid,) = [key.removeprefix("it-") for key in vector["keys"]]
    query = await IterableJobQuery.of(data, [jid, "none", jid, "odd"])
    state = query[jid]
    assert state is not None
    assert (1, 30) == (state.executions, state.cursor)
    assert 1.5 < state.runtime < 1.6
    assert state.cancelled is not None
    odd = query["odd"]
    assert odd is not None
    assert (2, "not json", None) == (odd.executions, odd.cursor, odd.cancelled)
    assert query["none"] is None


# ------------------------------------------------------------------------------------------------------------- monitor

Monitor = Callable[..., str]


@pytest.fixture
def monitor(redis_server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Monitor:
    redis_server.flush()
    monkeypatch.setenv("REDIS_URL", redis_server.url)

    def show(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["monitor", *arguments])
        assert code == (ended.value.code or 0)
        printed = capsys.readouterr()
        return printed.out or printed.err

    return show


def test_an_overview_has_sidekiqmons_columns(monitor: Monitor, redis_server: Server):
    redis_server.call("MSET", "stat:processed", 1234567, "stat:failed", 89)
    assert [
        "---- Overview ----",
        "  Processed: 1,234,567",
        "     Failed: 89",
        "       Busy: 0",
        "   Enqueued: 0",
        "    Retries: 0",
        "  Scheduled: 0",
        "       Dead: 0",
    ] == monitor("overview").splitlines()


def test_queues_are_aligned(monitor: Monitor, redis_server: Server):
    redis_server.call("SADD", "queues", "default", "very_long_name")
    redis_server.call("LPUSH", "queue:default", job("x"))
    assert [
        "---- Queues (2) ----",
        "NAME              SIZE  LATENCY",
        "default              1     0.00",
        "very_long_name       0     0.00",
    ] == monitor("queues").splitlines()


def test_processes_are_told_with_tags_and_capsules(monitor: Monitor, redis_server: Server):
    import time

    put(redis_server, {})
    capsules = {"default": {"concurrency": 5, "mode": "strict", "weights": {"a": 0, "b": 0}}}
    info = {
        "tag": "shop",
        "labels": ["blue"],
        "started_at": time.time() - 150,
        "version": "8.1.7",
        "capsules": capsules,
    }
    capsules["slow"] = {"concurrency": 2, "mode": "strict", "weights": {"c": 0}}
    redis_server.call("SADD", "processes", "h:1:x")
    redis_server.call("HSET", "h:1:x", "info", json.dumps(info), "concurrency", 7, "busy", 1, "quiet", "true")
    head, name, started, threads, queues, version = monitor("processes").splitlines()
    assert ("---- Processes (1) ----", "h:1:x [shop] [blue] [quiet]") == (head, name)
    assert started.startswith("  Started: ")
    assert started.endswith(" (2 minutes ago)")
    assert ("  Threads: 7 (1 busy)", "   Queues: a, b; c", "  Version: 8.1.7") == (threads, queues, version)


def test_all_of_it_is_the_default_and_json_has_it_too(monitor: Monitor, redis_server: Server):
    text = monitor()
    assert ["---- Overview ----", "---- Processes (0) ----", "---- Queues (0) ----"] == [
        line for line in text.splitlines() if line.startswith("----")
    ]
    facts = json.loads(monitor("--json"))
    assert ({"version", "at", "overview", "processes", "queues"}, 0) == (set(facts), facts["overview"]["failed"])


def test_an_unknown_section_names_those_there_are(monitor: Monitor):
    assert "Try one of all, version, overview, processes, queues" in monitor("nonsense", code=2)


def test_a_redis_that_is_not_there_is_named(monitor: Monitor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "REDIS_URL", "redis://127.0.0.1:9")
    assert "127.0.0.1:9" in monitor("overview", code=3)
