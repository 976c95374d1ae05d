"""The Data API on the fleet: numbers, days, processes, work, profiles, states; and ``penstock monitor``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.monitor import ago, wrapped
from penstock.cli.root import run
from penstock.errors import ConfigurationError, UnsupportedFeature
from penstock.sidekiq import Data, History, IterableJobQuery, Process, ProcessSet, ProfileSet, Stats, WorkSet
from penstock.version import __version__

FOLDER = Path(__file__).parents[1] / "data"
VECTORS = {
    f"{name}-{each['scenario']}": each
    for name in ("sidekiq_8", "sidekiq_6_4")
    for each in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
}
BOTH = pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])


@pytest.fixture
async def data(redis_url: str) -> AsyncIterator[Data]:
    async with Data.from_url(redis_url) as data:
        yield data


async def put(data: Data, keys: dict[str, Any]) -> None:
    for key, value in keys.items():
        if value["type"] == "set":
            await data.client.call("SADD", key, *value["members"])
        elif value["type"] == "hash":
            for name, field in value["fields"]:
                raw = bytes.fromhex(field["hex"]) if isinstance(field, dict) else field
                await data.client.call("HSET", key, name, raw)
        elif value["type"] == "string" and "value" in value:
            await data.client.call("SET", key, value["value"])


async def alive(data: Data, identity: str, info: dict[str, Any], **facts: Any) -> None:
    await data.client.call("SADD", "processes", identity)
    for name, value in {"info": json.dumps(info), **facts}.items():
        await data.client.call("HSET", identity, name, value)


# -------------------------------------------------------------------------------------------------------------- numbers


async def test_an_empty_database_has_zeros(data: Data):
    stats = await Stats.load(data)

    assert [0] * 8 == [getattr(stats, name) for name in Stats.__struct_fields__[:8]]
    assert ({}, (), 0.0) == (stats.queues, stats.queue_summaries, stats.default_queue_latency)


async def test_all_numbers_are_told(data: Data):
    now = time.time()
    await data.client.call("MSET", "stat:processed", 120, "stat:failed", 7)
    for name, size in (("schedule", 1), ("retry", 2), ("dead", 3)):
        await data.client.call("ZADD", name, *(each for number in range(size) for each in (number, f"{number}")))
    await data.client.call("SADD", "queues", "default", "low", "empty")
    await data.client.call("SADD", "paused", "low")
    await data.client.call("LPUSH", "queue:default", json.dumps({"class": "X", "args": [], "enqueued_at": now - 9}))
    await data.client.call("LPUSH", "queue:low", "{}", "{not json", "{}")
    await alive(data, "a:1:x", {}, busy=2)
    await alive(data, "b:2:y", {}, busy=3)

    stats = await Stats.load(data)

    assert (120, 7, 1, 2, 3, 4, 2, 5) == tuple(getattr(stats, name) for name in Stats.__struct_fields__[:8])
    assert pytest.approx(9, abs=1) == stats.default_queue_latency
    assert [("low", 3), ("default", 1), ("empty", 0)] == list(stats.queues.items())
    assert [("low", True), ("default", False), ("empty", False)] == [(q.name, q.paused) for q in stats.queue_summaries]
    assert 0.0 == stats.queue_summaries[0].latency


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ((), ["0", "0"]),
        (("failed",), ["120", "0"]),
        (("processed", "no such"), ["0", "7"]),
        (("nothing",), ["120", "7"]),
    ],
)
async def test_counters_are_reset_by_name_and_days_are_kept(data: Data, names: tuple[str, ...], left: list[str]):
    await data.client.call("MSET", "stat:processed", 120, "stat:failed", 7, "stat:processed:2026-11-21", 20)

    await Stats.reset(data, *names)

    assert [each.encode() for each in [*left, "20"]] == await data.client.call(
        "MGET", "stat:processed", "stat:failed", "stat:processed:2026-11-21"
    )


async def test_the_history_goes_back_from_a_day(data: Data):
    await data.client.call("MSET", "stat:processed:2024-03-01", 5, "stat:failed:2024-02-29", 2)
    history = History(data, 3, date(2024, 3, 1))

    assert [("2024-03-01", 5), ("2024-02-29", 0), ("2024-02-28", 0)] == list((await history.processed()).items())
    assert [("2024-03-01", 0), ("2024-02-29", 2), ("2024-02-28", 0)] == list((await history.failed()).items())
    assert datetime.now(UTC).date().isoformat() in await History(data, 2).processed()


@pytest.mark.parametrize("days", [0, -1, 1826])
async def test_a_history_of_days_that_are_not_kept_is_refused(data: Data, days: int):
    with pytest.raises(ConfigurationError, match="1 to 1825"):
        History(data, days)


# ------------------------------------------------------------------------------------------------------------ processes


@BOTH
async def test_a_busy_process_of_ruby_is_read_with_its_work(data: Data, version: str):
    keys = VECTORS[f"{version}-heartbeat_and_work_while_busy"]["keys"]
    await put(data, keys)
    (identity,) = keys["processes"]["members"]

    (process,) = [process async for process in ProcessSet(data)]
    works = [work async for work in WorkSet(data)]

    assert (identity, "app", 3, 2, False) == (
        process.identity, process.tag, process.concurrency, process.busy, process.stopping
    )  # fmt: skip
    assert ["critical", "default"] == process.queues
    assert [] == process.labels
    assert process.rss > 1000
    assert process.rtt_us > 0
    assert process.beat_at > process.started_at.timestamp()
    if version == "sidekiq_8":
        assert ([{"critical": 3, "default": 1}], "8.1.7") == (process.weights, process.version)
    assert {"critical", "default"} == {work.queue for work in works}
    assert [["sleep", 14]] * 2 == [work.job.args for work in works]
    assert {identity} == {work.process_id for work in works}
    assert 2 == await WorkSet(data).size()
    found = await WorkSet(data).find_work(works[1].job.jid or "")
    assert found is not None
    assert works[1].thread_id == found.thread_id
    assert None is await WorkSet(data).find_work("nobody")


@BOTH
async def test_cleaning_quieting_and_stopping_leave_what_ruby_leaves(data: Data, version: str):
    vector = VECTORS[f"{version}-api_admin"]
    await put(data, vector["before"])
    processes = ProcessSet(data)

    (process,) = [process async for process in processes]
    await process.quiet()
    await process.stop()
    await Stats.reset(data)

    assert vector["keys"]["processes"]["members"] == await data.members("processes")
    key = f"{process.identity}-signals"
    assert vector["keys"][key]["items"] == [each.decode() for each in await data.client.call("LRANGE", key, 0, -1)]
    assert 55 <= await data.client.call("TTL", key) <= 60
    assert 55 <= await data.client.call("TTL", "process_cleanup") <= 60
    for name in ("stat:processed", "stat:failed", "stat:processed:2026-11-21"):
        assert vector["keys"][name]["value"].encode() == await data.client.call("GET", name)


async def test_the_dead_are_removed_once_a_minute_and_if_wanted(data: Data):
    await data.client.call("SADD", "processes", "gone:1:a")

    assert [] == [process async for process in ProcessSet(data, clean=False)]
    assert 1 == await ProcessSet(data).size()
    assert [1, 0] == [await ProcessSet(data).cleanup(), await ProcessSet(data).cleanup()]
    await data.client.call("SADD", "processes", "gone:2:b")
    assert [] == [process async for process in ProcessSet(data)]
    assert ["gone:2:b"] == await data.members("processes")


async def test_processes_are_found_counted_and_led(data: Data):
    await alive(data, "a:1:x", {"concurrency": 4, "tag": "app", "labels": ["one", "two"]}, rss=100, quiet="true")
    await alive(data, "b:2:y", {"capsules": {"d": {"weights": {"q": 0}}}}, rss=23, concurrency=5, quiet="false")
    processes = ProcessSet(data)

    assert (9, 123, "") == (await processes.total_concurrency(), await processes.total_rss(), await processes.leader())
    await data.client.call("SET", "dear-leader", "a:1:x")
    assert "a:1:x" == await processes.leader()
    first, second = [process async for process in processes]
    assert [(True, True), (False, False)] == [(each.stopping, await each.leader()) for each in (first, second)]
    assert (["one", "two"], ["q"], [{"q": 0}]) == (first.labels, second.queues, second.weights)
    found = await processes.find("b:2:y")
    assert found is not None
    assert 5 == found.concurrency
    assert None is await processes.find("nobody")
    assert "app" == first["tag"]
    await first.dump_threads()
    assert [b"TTIN"] == await data.client.call("LRANGE", "a:1:x-signals", 0, -1)


async def test_an_embedded_process_is_stopped_by_its_program_alone(data: Data):
    await alive(data, "a:1:x", {"embedded": True})
    process = await ProcessSet(data).find("a:1:x")
    assert isinstance(process, Process)

    for act in (process.quiet, process.stop):
        with pytest.raises(UnsupportedFeature, match="is embedded"):
            await act()
    assert 0 == await data.client.call("EXISTS", "a:1:x-signals")


async def test_work_is_sorted_by_its_beginning_and_what_cannot_be_read_is_left_out(data: Data):
    await alive(data, "a:1:x", {}, busy=1)
    await alive(data, "b:2:y", {}, busy=1)
    old, new = ({"queue": "q", "payload": json.dumps({"jid": f"{at}"}), "run_at": at} for at in (100, 200))
    await data.client.call("HSET", "a:1:x:work", "t1", json.dumps(new), "t2", "", "t3", "{no", "t4", "3")
    await data.client.call("HSET", "b:2:y:workers", "t1", json.dumps(old))

    works = [work async for work in WorkSet(data)]

    assert [("b:2:y", "100"), ("a:1:x", "200")] == [(work.process_id, work.job.jid) for work in works]
    assert datetime.fromtimestamp(100, UTC) == works[0].run_at


# -------------------------------------------------------------------------------------------------- profiles and states


async def test_a_profile_of_ruby_is_read_and_expired_ones_are_not_listed(data: Data):
    keys = VECTORS["sidekiq_8-profile_stored"]["keys"]
    await put(data, keys)
    ((name, _),) = keys["profiles"]["members"]
    now = time.time()
    await data.client.call("ZADD", "profiles", now + 50, name, now + 60, "hash-is-gone", now - 1, "expired")
    profiles = ProfileSet(data)

    (profile,) = [profile async for profile in profiles]

    assert (name, "PlainJob", "tok1", 56) == (profile.key, profile.type, profile.token, profile.size)
    assert pytest.approx(0.0207, abs=1e-4) == profile.elapsed
    assert 1795227249 == profile.started_at.timestamp()
    body = await profile.data()
    assert body is not None
    assert (b"\x1f\x8b", 56) == (body[:2], len(body))
    assert 2 == await profiles.size()


@pytest.mark.parametrize("scenario", ["iterable_interrupted_by_stop", "iterable_cancel_flag"])
async def test_the_state_of_an_iterable_job_of_ruby_is_read(data: Data, scenario: str):
    await put(data, VECTORS[f"sidekiq_8-{scenario}"]["keys"])
    jid = "8bf97dff5b091b2accc676d6"

    query = await IterableJobQuery(data, [jid, jid, None, "other"]).load()

    assert ((jid, "other"), 1) == (query.jids, len(query))
    state = query[jid]
    assert state is not None
    assert (1, 30, scenario.endswith("flag")) == (state.executions, state.cursor, state.cancelled)
    assert pytest.approx(1.5067, abs=1e-4) == state.runtime
    assert (None, None) == (query["other"], query[None])


async def test_a_cursor_that_is_no_json_is_shown_as_it_is(data: Data):
    await data.client.call("HSET", "it-a", "ex", 2, "c", "page:7")

    state = (await IterableJobQuery(data, ["a"]).load())["a"]

    assert state is not None
    assert ("page:7", 0.0, None) == (state.cursor, state.runtime, state.cancelled_at)
    assert 0 == len(await IterableJobQuery(data, []).load())


# -------------------------------------------------------------------------------------------------------------- monitor


async def _printed(url: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert 0 == await asyncio.to_thread(run, ["monitor", *arguments, "-b", f"sidekiq+{url}"])
    return capsys.readouterr().out


async def test_the_monitor_prints_what_sidekiqmon_prints(
    data: Data, redis_url: str, capsys: pytest.CaptureFixture[str]
):
    await data.client.call("MSET", "stat:processed", 1234567, "stat:failed", 89)
    await data.client.call("SADD", "queues", "default", "background")
    await data.client.call(
        "LPUSH", "queue:default", json.dumps({"class": "X", "args": [], "enqueued_at": time.time() - 9})
    )
    capsules = {"default": {"weights": {"default": 0, "low": 0}}, "single": {"weights": {"one": 0}}}
    info = {
        "started_at": time.time() - 130,
        "tag": "pyapp",
        "labels": ["python"],
        "version": "8.1.7",
        "capsules": capsules,
    }
    await alive(data, "pyhost:4242:0123456789ab", info, busy=1, concurrency=7, quiet="true")
    own = {"started_at": time.time(), "version": f"penstock {__version__}", "concurrency": 2, "queues": ["b", "a"]}
    await alive(data, "zz:1:0", own, quiet="false")

    lines = (await _printed(redis_url, capsys)).split("\n")

    assert f"penstock {__version__}" == lines[0]
    assert datetime.strptime(lines[1], "%Y-%m-%d %H:%M:%S UTC")  # noqa: DTZ007 it says UTC
    assert [
        "",
        "---- Overview ----",
        "  Processed: 1,234,567",
        "     Failed: 89",
        "       Busy: 1",
        "   Enqueued: 1",
        "    Retries: 0",
        "  Scheduled: 0",
        "       Dead: 0",
        "",
        "---- Processes (2) ----",
        "pyhost:4242:0123456789ab [pyapp] [python] [quiet]",
    ] == lines[2:14]
    assert lines[14].startswith("  Started: 20")
    assert lines[14].endswith(" (2 minutes ago)")
    assert [
        "  Threads: 7 (1 busy)",
        "   Queues: default, low; one",
        "  Version: 8.1.7",
        "",
        "zz:1:0",
    ] == lines[15:20]
    assert lines[20].endswith(" (just now)")
    assert ["  Threads: 2 (0 busy)", "   Queues: b, a", "", "---- Queues (2) ----"] == lines[21:25]
    assert ["NAME          SIZE  LATENCY", "background       0     0.00"] == lines[25:27]
    assert lines[27].startswith("default          1     9.")


async def test_one_section_is_printed_alone(data: Data, redis_url: str, capsys: pytest.CaptureFixture[str]):
    assert "---- Queues (0) ----\nNAME    SIZE  LATENCY\n" == await _printed(redis_url, capsys, "queues")
    assert "---- Processes (0) ----\n" == await _printed(redis_url, capsys, "processes")
    assert (
        "I don't know how to check the status of 'nope'!\nTry one of these: all, version, overview, processes, queues\n"
        == await _printed(redis_url, capsys, "nope")
    )


def test_the_monitor_of_another_broker_is_its_stats(capsys: pytest.CaptureFixture[str]):
    assert 2 == run(["monitor", "-b", "redis://localhost:1"])

    assert "expected sidekiq+redis://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59.9, "just now"),
        (60, "a minute ago"),
        (120, "2 minutes ago"),
        (3599, "59 minutes ago"),
        (3600, "an hour ago"),
        (7200, "2 hours ago"),
    ],
)
def test_a_time_span_is_told_in_words(seconds: float, words: str):
    assert words == ago(seconds)


def test_capsules_are_wrapped_at_eighty_columns():
    assert f"{'x' * 40}; \n{' ' * 11}{'y' * 40}" == wrapped(["x" * 40, "y" * 40])
    assert "a; b" == wrapped(["a", "b"])
