"""Processing on a Redis: what stands in Sidekiq's keys afterwards, held against what Ruby left there."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import Worker
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.clients.opening import redis_client
from penstock.clients.redis import RedisClient
from penstock.clock import SYSTEM_CLOCK
from penstock.enumerators import array_enumerator
from penstock.errors import ConfigurationError
from penstock.iterable import IterableJob, Iterations, IterationState
from penstock.job import DISCARD, KILL, Job
from penstock.job_registry import Jobs
from penstock.sidekiq import deploy
from penstock.sidekiq.handlers import Handlers
from penstock.sidekiq.iteration_store import RedisIterations
from penstock.sidekiq.metrics import BUCKETS, LABELS, LIMITS, Tracker, histogram_key, minute_key
from penstock.sidekiq.metrics_query import MetricsQuery
from penstock.sidekiq.processor import Processor, ProcessorOptions
from penstock.sidekiq.profiler import Profiler
from tests.servers.redis_server import Server

AT = datetime(2026, 11, 21, 2, 14, 9, tzinfo=UTC)
VECTORS = {
    each["scenario"]: each["keys"]
    for each in json.loads((Path(__file__).parent.parent / "data" / "sidekiq_8.json").read_text("utf-8"))
}


class At:
    """The system's clock, but for the hour."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def time(self) -> float:
        return self.moment.timestamp()

    monotonic = staticmethod(SYSTEM_CLOCK.monotonic)
    sleep = staticmethod(SYSTEM_CLOCK.sleep)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = redis_client(redis_url)
    yield client
    await client.close()


class Fleet:
    """A worker of Ruby's jobs."""

    def __init__(self, url: str, **options: Any) -> None:
        self.jobs: Jobs[Any] = Jobs()
        self.deaths: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        handlers = Handlers(errors=[lambda _error, context: self.errors.append(context)], deaths=[self.deaths.append])
        self.processor = Processor(self.jobs, ProcessorOptions(handlers=handlers, **options))
        self.consumer = self.processor.consumer(SidekiqBroker.from_url(f"sidekiq+{url}"), "default")

    async def until(self, done: Callable[[], Any]) -> None:
        async with Worker(self.consumer), asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0.005)
        self.processor.close()


def hash_of(server: Server, key: str) -> dict[str, bytes]:
    return {name.decode(): value for name, value in server.call("HGETALL", key).items()}


def failing(name: str, text: str, error: str = "CustomError", **options: Any) -> type[Any]:
    kind = type(error, (Exception,), {})

    async def perform(self: Any, *_: Any) -> None:
        raise kind(text)

    return type(name, (Job,), {"perform": perform}, abstract=True, **options)


def started(job: dict[str, Any]) -> bytes:
    """The job as it was when it was taken."""
    gone = ("error_message", "error_class", "failed_at", "retried_at", "retry_count", "error_backtrace", "discarded_at")
    return json.dumps({name: v for name, v in job.items() if name not in gone}, separators=(",", ":")).encode()


def blurred(job: dict[str, Any]) -> dict[str, Any]:
    times = ("failed_at", "retried_at", "discarded_at")
    return {name: type(value) if name in times else value for name, value in job.items()}


FAILING = [
    ("fail_once", "retry", failing("FailJob", 'boom ["fail", 1]', "RuntimeError")),
    ("retry_0_to_dead", "dead", failing("ZeroRetryJob", "at once")),
    ("retry_in_kill", "dead", failing("KillJob", "kill me")),
    ("retry_in_discard", None, failing("DiscardJob", "discard me")),
]
FAILING[2][2].retry_in(lambda _count: KILL)
FAILING[3][2].retry_in(lambda _count: DISCARD)


@pytest.mark.parametrize(("scenario", "lands_in", "cls"), FAILING)
async def test_a_job_that_fails_leaves_what_ruby_leaves(
    redis_url: str, shared_server: Server, scenario: str, lands_in: str | None, cls: type[Any]
) -> None:
    keys = VECTORS[scenario]
    entries = keys[lands_in]["members"] if lands_in else []
    expected = [json.loads(raw) for raw, _ in entries]
    told = [json.loads(raw) for raw in keys.get("handler:death", {"items": []})["items"]]
    fleet = Fleet(redis_url)
    fleet.jobs.add(cls, cls.__name__)
    shared_server.call("LPUSH", "queue:default", started((expected or told)[0]).decode())
    await fleet.until(lambda: shared_server.call("GET", "stat:failed"))
    found = [json.loads(raw) for raw in shared_server.call("ZRANGE", lands_in or "dead", 0, -1)]
    for each in expected:
        each["error_message"] = found[0]["error_message"] if scenario == "retry_0_to_dead" else each["error_message"]
        if scenario == "retry_0_to_dead":
            each["error_class"] = found[0]["error_class"]
    assert [blurred(each) for each in expected] == [blurred(each) for each in found]
    assert [list(each) for each in expected] == [list(each) for each in found]
    assert [set(each) for each in told] == [set(each) for each in fleet.deaths]
    assert b"1" == shared_server.call("GET", "stat:processed")
    assert 0 == shared_server.call("LLEN", "queue:default")


async def test_jobs_that_are_kept_nowhere_are_told_as_ruby_tells_them(redis_url: str, shared_server: Server) -> None:
    told = [json.loads(raw) for raw in VECTORS["fail_kept_nowhere"]["handler:death"]["items"]]
    fleet = Fleet(redis_url)
    for job in told:
        fleet.jobs.add(failing(job["class"], "not kept"), job["class"])
        shared_server.call("LPUSH", "queue:default", started(job).decode())
    await fleet.until(lambda: shared_server.call("GET", "stat:failed") == b"2")
    found = {payload["class"]: blurred(payload) for payload in fleet.deaths}
    assert {job["class"]: blurred(job) for job in told} == found
    assert 0 == shared_server.call("EXISTS", "retry", "dead", "queue:default")


async def test_a_class_that_nobody_knows_goes_to_the_retries(redis_url: str, shared_server: Server) -> None:
    ((raw, _),) = VECTORS["unknown_class_to_retry"]["retry"]["members"]
    expected = json.loads(raw)
    shared_server.call("LPUSH", "queue:default", started(expected).decode())
    await Fleet(redis_url).until(lambda: shared_server.call("ZCARD", "retry"))
    (found,) = [json.loads(raw) for raw in shared_server.call("ZRANGE", "retry", 0, -1)]
    assert list(expected) == list(found)
    assert ("NameError", 0) == (found["error_class"], found["retry_count"])


async def test_retry_for_is_counted_from_the_first_failure(redis_url: str, shared_server: Server) -> None:
    ((raw, _),) = VECTORS["retry_for_expired_to_dead"]["dead"]["members"]
    job = json.loads(raw) | {"retry_count": 0}
    del job["retried_at"]
    fleet = Fleet(redis_url)
    fleet.jobs.add(failing("RetryForJob", "until the deadline"), "RetryForJob")
    shared_server.call("LPUSH", "queue:default", json.dumps(job))
    await fleet.until(lambda: shared_server.call("ZCARD", "dead"))
    (found,) = [json.loads(raw) for raw in shared_server.call("ZRANGE", "dead", 0, -1)]
    assert blurred(json.loads(raw)) == blurred(found)


async def test_what_is_no_job_is_dead_as_it_is_and_reported(redis_url: str, shared_server: Server) -> None:
    ((raw, _),) = VECTORS["invalid_json_to_dead"]["dead"]["members"]
    fleet = Fleet(redis_url)
    for each in (raw, "2"):
        shared_server.call("LPUSH", "queue:default", each)
    await fleet.until(lambda: len(fleet.errors) == 2)
    found = [(each["context"], each["jobstr"], each["queue"]) for each in fleet.errors]
    assert [("Invalid JSON for job", each, "default") for each in (raw, "2")] == found
    assert {raw.encode(), b"2"} == set(shared_server.call("ZRANGE", "dead", 0, -1))


# --------------------------------------------------------------------------------------------------------- iterable jobs


async def test_a_stopped_iteration_leaves_its_state_and_its_job_where_ruby_finds_them(
    redis_url: str, shared_server: Server, client: RedisClient
) -> None:
    vector = VECTORS["iterable_interrupted_by_stop"]
    (raw,) = vector["queue:default"]["items"]
    seen: list[int] = []

    class ListJob(IterableJob, abstract=True):
        def build_enumerator(self, count: int, *, cursor: Any) -> Any:
            return array_enumerator(range(count), cursor)

        async def each_iteration(self, n: int, count: int) -> None:
            seen.append(n)
            await asyncio.sleep(0.001)

    fleet = Fleet(redis_url, iterations=Iterations(store=RedisIterations(client)))
    fleet.jobs.add(ListJob, "ListJob")
    shared_server.call("LPUSH", "queue:default", raw)
    await fleet.until(lambda: len(seen) > 3)
    jid = json.loads(raw)["jid"]
    assert [raw.encode()] == shared_server.call("LRANGE", "queue:default", 0, -1)
    state = {name: value.decode() for name, value in hash_of(shared_server, f"it-{jid}").items()}
    assert [name for name, _ in vector[f"it-{jid}"]["fields"]] == list(state)
    assert ("1", str(seen[-1] + 1)) == (state["ex"], state["c"])
    assert 0.0 < float(state["rt"]) < 10
    assert 2_591_000 < shared_server.call("TTL", f"it-{jid}") <= 2_592_000
    assert 0 == shared_server.call("EXISTS", "stat:failed", "retry", "schedule")

    begun, length = len(seen), 400
    fleet = Fleet(redis_url, iterations=Iterations(store=RedisIterations(client)))
    fleet.jobs.add(ListJob, "ListJob")
    await fleet.until(lambda: shared_server.call("GET", "stat:processed"))
    assert list(range(length)) == seen
    assert begun < length
    assert 0 == shared_server.call("EXISTS", f"it-{jid}", "queue:default")


async def test_the_state_of_an_iteration_reads_as_ruby_wrote_it(client: RedisClient, shared_server: Server) -> None:
    ((name, vector),) = [item for item in VECTORS["iterable_cancel_flag"].items() if item[0].startswith("it-")]
    for field, value in vector["fields"]:
        shared_server.call("HSET", name, field, value)
    store, jid = RedisIterations(client), name.removeprefix("it-")
    state = IterationState(executions=1, cursor=30, runtime=1.5067265809993842, cancelled=1795227249.0)
    assert state == await store.load(jid)
    assert 1795227249.0 == await store.cancel(jid, 1795229999.0)
    assert 1795227249.0 == await store.save(jid, state)
    await store.delete(jid)
    assert IterationState() == await store.load(jid)
    assert 7.0 == await store.cancel(jid, 7.9)
    assert b"7" == shared_server.call("HGET", name, "cancelled")


# --------------------------------------------------------------------------------------------------------------- metrics


async def tracked(client: RedisClient, at: datetime = AT, **more: Any) -> None:
    """The runs of the vector."""
    tracker = Tracker(clock=At(at), **more)
    for milliseconds in (1, 1, 1, 50, 120, 120, 402):
        tracker.ran("PlainJob", 10.0, 10.0 + milliseconds / 1000 + 0.0001)
    tracker.ran("Billing::InvoiceJob", 10.0, 10.0)
    tracker.failed("FailJob")
    tracker.failed("FailJob")
    await tracker.flush(client)


async def test_metrics_stand_where_and_as_ruby_writes_them(client: RedisClient, shared_server: Server) -> None:
    vector = VECTORS["metrics_after_known_runs"]
    await tracked(client)
    for key, facts in vector.items():
        if key.startswith("stat:"):
            continue
        assert abs(shared_server.call("TTL", key) - facts["ttl"]) < 3, key
        if facts["type"] == "hash":
            assert dict(facts["fields"]) == {n: v.decode() for n, v in hash_of(shared_server, key).items()}
        else:
            assert facts["value_hex"] == shared_server.call("GET", key).hex()
    assert 4 == len([key for key in shared_server.call("KEYS", "*") if key[:1] in {b"j", b"h"}])


async def test_metrics_of_several_flushes_add_up_and_nothing_is_written_for_nothing(
    client: RedisClient, shared_server: Server
) -> None:
    await Tracker(clock=At(AT)).flush(client)
    assert 0 == shared_server.call("DBSIZE")
    await tracked(client)
    await tracked(client)
    assert b"14" == shared_server.call("HGET", minute_key(AT), "PlainJob|p")


async def test_metrics_that_could_not_be_written_are_written_later(client: RedisClient, shared_server: Server) -> None:
    class Down:
        async def many(self, _: Any) -> Any:
            raise ConnectionError

    tracker = Tracker(clock=At(AT))
    tracker.ran("A", 0.0, 0.05)
    with pytest.raises(ConnectionError):
        await tracker.flush(Down())  # type: ignore[arg-type]
    tracker.ran("A", 0.0, 0.05)
    await tracker.flush(client)
    assert b"2" == shared_server.call("HGET", minute_key(AT), "A|p")
    await tracker.flush(client)
    assert b"2" == shared_server.call("HGET", minute_key(AT), "A|p")


async def test_a_full_bucket_stays_full(client: RedisClient, shared_server: Server) -> None:
    key = histogram_key("A", AT)
    shared_server.call("BITFIELD", key, "SET", "u16", "#0", 65_535)
    tracker = Tracker(clock=At(AT))
    tracker.ran("A", 0.0, 0.001)
    await tracker.flush(client)
    assert [65_535] == shared_server.call("BITFIELD_RO", key, "GET", "u16", "#0")


async def test_the_metrics_of_sidekiq_7_are_written_if_asked_for(client: RedisClient, shared_server: Server) -> None:
    await tracked(client, datetime(2026, 11, 2, 3, 4, 9, tzinfo=UTC), schema="both")
    keys = {key.decode() for key in shared_server.call("KEYS", "*")}
    names = {"PlainJob", "Billing::InvoiceJob"}
    sevens = {"j|20261102|3:4"} | {f"{name}-02-03:4" for name in names}
    assert sevens | {"j|261102|3:04", "j|261102|3:0"} | {f"h|{name}-2-3:4" for name in names} == keys


def test_there_is_a_label_for_each_bucket_of_time() -> None:
    assert (26, 26) == (BUCKETS, len(LABELS))
    assert ("20ms", "1.1s", "335s", "Slow") == (LABELS[0], LABELS[LIMITS.index(1100)], LABELS[24], LABELS[25])


@pytest.mark.parametrize(
    ("milliseconds", "bucket"), [(0, 0), (19, 0), (20, 1), (335_000, 25), (334_999, 24), (10**9, 25)]
)
def test_a_run_is_in_the_first_bucket_whose_limit_is_greater(milliseconds: int, bucket: int) -> None:
    tracker = Tracker()
    tracker.ran("A", 0.0, milliseconds / 1000 + 0.00001)
    assert [0] * bucket + [1] + [0] * (25 - bucket) == tracker._runs["A"][3:]


async def test_a_name_that_would_break_readers_is_mended(client: RedisClient, shared_server: Server) -> None:
    tracker = Tracker(clock=At(AT))
    tracker.failed("a|b")
    await tracker.flush(client)
    assert [b"a_b|p", b"a_b|f"] == shared_server.call("HKEYS", minute_key(AT))


async def test_the_top_jobs_are_read_by_minute_and_by_ten_minutes(client: RedisClient) -> None:
    await tracked(client)
    await tracked(client, AT.replace(minute=12))
    await tracked(client, AT - timedelta(hours=8))  # longer ago than what is asked for
    query = MetricsQuery(client, now=AT.timestamp())
    for window, buckets in (({}, 2), ({"minutes": 5}, 2), ({"hours": 2}, 1), ({"minutes": 999}, 2)):
        result = await query.top_jobs(**window)
        plain = result.job_results["PlainJob"]
        assert (14, 0, 2 * 695, 1.39) == (*(plain.totals[f] for f in ("p", "f", "ms")), round(plain.totals["s"], 3))
        assert buckets == len(plain.series["p"])
        assert round(695 / 7, 3) == round(plain.total_avg(), 3)
        assert 0.0 == result.job_results["FailJob"].total_avg()
        assert AT == result.ends_at
    by_minute = (await query.top_jobs()).job_results["PlainJob"]
    assert {"2026-11-21T02:14:00Z": 7, "2026-11-21T02:12:00Z": 7} == by_minute.series["p"]
    assert {"2026-11-21T02:10:00Z": 14} == (await query.top_jobs(hours=1)).job_results["PlainJob"].series["p"]
    assert [round(695 / 7, 3)] * 2 == [round(each, 3) for each in by_minute.series_avg().values()]
    assert {"Billing::InvoiceJob"} == set((await query.top_jobs("Invoice")).job_results)
    assert {} == (await query.top_jobs("Nobody")).job_results


async def test_one_job_is_read_with_its_histograms_slowest_first(client: RedisClient) -> None:
    await tracked(client)
    query = MetricsQuery(client, now=AT.timestamp())
    result = await query.for_job("PlainJob", minutes=3)
    found = result.job_results["PlainJob"]
    assert (7, 695) == (found.totals["p"], found.totals["ms"])
    assert ["2026-11-21T02:14:00Z", "2026-11-21T02:13:00Z", "2026-11-21T02:12:00Z"] == list(found.hist)
    gram = found.hist["2026-11-21T02:14:00Z"][::-1]
    assert {0: 3, 3: 1, 5: 2, 8: 1} == {place: number for place, number in enumerate(gram) if number}
    hourly = await query.for_job("PlainJob", hours=1)
    assert ({}, 7, "hourly") == (
        hourly.job_results["PlainJob"].hist,
        hourly.job_results["PlainJob"].totals["p"],
        hourly.granularity,
    )
    assert {} == (await query.for_job("Nobody")).job_results["Nobody"].totals


# ---------------------------------------------------------------------------------------------------------------- deploys


async def test_a_deploy_is_marked_once_and_to_the_minute(client: RedisClient, shared_server: Server) -> None:
    vector = VECTORS["deploy_mark"]
    at = datetime(2026, 11, 21, 0, 23, 45, tzinfo=UTC).timestamp()
    marked = [await deploy.mark(client, label, at=at) for label in ("1a2b3c4 Release 7", "1a2b3c4 Release 7", "other")]
    assert [True, False, True] == marked
    for key, facts in vector.items():
        assert facts["ttl"] - shared_server.call("TTL", key) in {0, 1}
        if facts["type"] == "hash":
            ((field, value),) = facts["fields"]
            assert {field: value.encode()} == hash_of(shared_server, key)
        else:
            assert facts["value"].encode() == shared_server.call("GET", key)


async def test_marks_of_every_day_of_the_window_are_found(client: RedisClient) -> None:
    for day, label in ((20, "before"), (21, "now"), (19, "long ago")):
        await deploy.mark(client, label, at=datetime(2026, 11, day, 23 if day < 21 else 0, 30, tzinfo=UTC).timestamp())
    query = MetricsQuery(client, now=datetime(2026, 11, 21, 1, 0, 30, tzinfo=UTC).timestamp())
    found = [(mark.label, mark.bucket) for mark in (await query.top_jobs(minutes=180)).marks]
    assert [("before", "2026-11-20T23:30:00Z"), ("now", "2026-11-21T00:30:00Z")] == found
    assert 3 == len((await query.for_job("X", hours=72)).marks)


async def test_the_label_is_by_default_the_last_commit(
    client: RedisClient, shared_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ConfigurationError, match="needs a label"):
        await deploy.mark(client)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "Release 8"], check=True)
    assert await deploy.mark(client)
    (key,) = shared_server.call("KEYS", "deploylock-*")
    assert key.endswith(b" Release 8")


# --------------------------------------------------------------------------------------------------------------- profiles


class Burns(Job, abstract=True):
    async def perform(self) -> None:
        self.burn()

    def burn(self) -> None:
        end = SYSTEM_CLOCK.monotonic() + 0.1
        while SYSTEM_CLOCK.monotonic() < end:
            sum(range(100))


class BurnsPlain(Burns, abstract=True):
    def perform(self) -> None:  # type: ignore[override]
        self.burn()


@pytest.mark.parametrize("cls", [Burns, BurnsPlain])
async def test_a_job_that_asks_for_it_is_profiled_where_it_runs(
    redis_url: str, shared_server: Server, client: RedisClient, cls: type[Any]
) -> None:
    profiler = Profiler(client, folder="out")
    fleet = Fleet(redis_url, profiler=profiler)
    fleet.jobs.add(cls, "PlainJob")
    job = {"class": "PlainJob", "args": [], "jid": "4ea0", "queue": "default", "profile": "tok1"}
    shared_server.call("LPUSH", "queue:default", json.dumps(job))
    await fleet.until(lambda: shared_server.call("GET", "stat:processed"))
    vector = VECTORS["profile_stored"]
    assert [b"tok1-4ea0"] == shared_server.call("ZRANGE", "profiles", 0, -1)
    facts = hash_of(shared_server, "tok1-4ea0")
    (expected,) = [each["fields"] for key, each in vector.items() if key.startswith("tok1-")]
    assert {name for name, _ in expected} == set(facts)
    assert (len(facts["data"]), b"tok1", b"PlainJob", b"4ea0") == (
        int(facts["size"]), facts["token"], facts["type"], facts["jid"],
    )  # fmt: skip
    assert 0.02 < float(facts["elapsed"]) < 5
    due = float(shared_server.call("ZSCORE", "profiles", "tok1-4ea0")) - time.time()
    assert 86_300 < due < shared_server.call("TTL", "tok1-4ea0") <= 86_460  # what is listed is there
    profile = json.loads(gzip.decompress(facts["data"]))
    (thread,) = profile["threads"]
    assert any(name.endswith("burn") for name in thread["stringArray"])
    samples, stacks = thread["samples"], thread["stackTable"]
    assert samples["length"] == len(samples["stack"]) == len(samples["time"]) > 1
    assert all(prefix is None or prefix < place for place, prefix in enumerate(stacks["prefix"]))
    tables = (stacks, thread["frameTable"], thread["funcTable"])
    for table in tables:
        assert {table["length"]} == {len(column) for column in table.values() if isinstance(column, list)}
    names = {
        thread["stringArray"][thread["funcTable"]["name"][thread["frameTable"]["func"][stacks["frame"][stack]]]]
        for stack in samples["stack"]
    }
    assert any("burn" in name for name in names)


async def test_a_job_that_fails_leaves_no_profile_and_one_whose_profile_cannot_be_kept_is_done(
    redis_url: str, shared_server: Server, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    for cls, profile in ((failing("PlainJob", "x"), "tok1"), (Burns, "tok2")):
        fleet = Fleet(redis_url, profiler=Profiler(client))
        fleet.jobs.add(cls, "PlainJob")
        shared_server.call("FLUSHALL")
        shared_server.call("SET", "profiles", "no sorted set")
        job = {"class": "PlainJob", "args": [], "jid": "4ea0", "queue": "default", "profile": profile}
        shared_server.call("LPUSH", "queue:default", json.dumps(job))
        await fleet.until(lambda: shared_server.call("GET", "stat:processed"))
        assert (cls is not Burns) == bool(shared_server.call("EXISTS", "stat:failed"))
        assert (cls is Burns) == ("a profile could not be kept" in caplog.text)


@pytest.mark.parametrize(
    ("limits", "kept"), [({"dead_max_jobs": 3}, [b"young", b"new"]), ({"dead_timeout": 1000.0}, [b"young", b"new"])]
)
async def test_a_death_trims_the_dead_as_ruby_does(
    redis_url: str, shared_server: Server, limits: dict[str, Any], kept: list[bytes]
) -> None:
    now = time.time()
    shared_server.call("ZADD", "dead", now - 5000, "old", now - 10, "young")
    fleet = Fleet(redis_url)
    broker = SidekiqBroker.from_url(f"sidekiq+{redis_url}", **limits)
    fleet.consumer = fleet.processor.consumer(broker, "default")
    fleet.jobs.add(failing("ZeroJob", "no"), "ZeroJob")
    shared_server.call("LPUSH", "queue:default", '{"class":"ZeroJob","args":[],"jid":"new","retry":0}')
    await fleet.until(lambda: shared_server.call("GET", "stat:failed"))
    found = shared_server.call("ZRANGE", "dead", 0, -1)
    assert kept == [b"new" if b"ZeroJob" in each else each for each in found]  # of 3 at most, 2: one less
