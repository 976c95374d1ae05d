"""A Sidekiq process from start to stop: events, capsules, what Ruby's pages see, what they may ask for."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from penstock import job_route
from penstock.errors import ConfigurationError
from penstock.job import Job
from penstock.job_registry import Jobs
from penstock.sidekiq.config import Config
from penstock.sidekiq.runner import Runner
from tests.servers.redis_server import Server

PATIENCE = 15.0


class Desk:
    """A registry of jobs of its own, and what ran."""

    def __init__(self) -> None:
        self.jobs: Jobs[Any] = Jobs()
        self.ran: list[Any] = []
        self.gate = asyncio.Event()
        desk = self

        class Note(Job, abstract=True):
            async def perform(self, *args: Any) -> None:
                desk.ran.append(args)

        class Wait(Job, abstract=True):
            async def perform(self) -> None:
                desk.ran.append("waiting")
                await desk.gate.wait()

        class Fail(Job, abstract=True, retry=0):
            async def perform(self) -> None:
                raise ValueError("no")

        for cls in (Note, Wait, Fail):
            self.jobs.add(cls, cls.__name__)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
def config(redis_server: Server) -> Config:
    redis_server.flush()
    config = Config()
    config.url = redis_server.url
    return config


def push(server: Server, queue: str, name: str, *args: Any) -> None:
    job = {"class": name, "args": list(args), "jid": f"{name}-{queue}", "queue": queue, "retry": True}
    server.call("LPUSH", f"queue:{queue}", json.dumps(job, separators=(",", ":")))
    server.call("SADD", "queues", queue)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_capsules_run_their_queues_and_the_process_is_seen(config: Config, desk: Desk, redis_server: Server):
    config.queues = ["critical,3", "default,1"]
    config.capsule("slow", concurrency=1, queues=["reports"])
    config.tag, config.labels = "shop", ["blue"]
    for queue in ("critical", "default", "reports"):
        push(redis_server, queue, "Note", queue)
    push(redis_server, "reports", "Wait")
    async with Runner(config, jobs=desk.jobs) as runner:
        await until(lambda: len(desk.ran) == 4)
        assert {("critical",), ("default",), ("reports",), "waiting"} == set(desk.ran)
        await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
        (identity,) = redis_server.call("SMEMBERS", "processes")
        facts = redis_server.call("HGETALL", identity)
        info = json.loads(facts[b"info"])
        assert ("shop", ["blue"], 6) == (info["tag"], info["labels"], int(facts[b"concurrency"]))
        assert {"concurrency": 1, "mode": "strict", "weights": {"reports": 0}} == info["capsules"]["slow"]
        assert {"concurrency": 5, "mode": "weighted", "weights": {"critical": 3, "default": 1}} == info["capsules"][
            "default"
        ]
        assert (b"1", b"false") == (facts[b"busy"], facts[b"quiet"])
        (work,) = redis_server.call("HVALS", identity + b":work")
        assert ("reports", "Wait") == ((entry := json.loads(work))["queue"], json.loads(entry["payload"])["class"])
        assert identity == redis_server.call("GET", "dear-leader")
        desk.gate.set()
    assert b"4" == redis_server.call("GET", "stat:processed")
    assert [] == [*redis_server.call("SMEMBERS", "processes"), *redis_server.call("KEYS", "pq:inflight:*")]
    assert redis_server.call("GET", "dear-leader") is None


async def test_events_come_once_and_in_order(config: Config, desk: Desk):
    told: list[str] = []
    beats: list[int] = []
    config.on("beat", lambda: beats.append(1))
    for name in ("startup", "quiet", "shutdown", "exit", "heartbeat"):
        for number in (1, 2):
            config.on(name, lambda text=f"{name} {number}": told.append(text))  # type: ignore[misc, arg-type]

    async def fail() -> None:
        raise ValueError("a handler of the user's")

    config.on("quiet", fail)
    errors: list[Any] = []
    config.error_handlers.append(lambda error, context: errors.append((str(error), context["event"])))
    async with Runner(config, jobs=desk.jobs) as runner:
        await until(lambda: "heartbeat 1" in told and beats)
        await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
        assert len(beats) >= 2  # each time, unlike the others
        await runner.quiet()
        await runner.quiet()
    assert [
        *("startup 1", "startup 2", "heartbeat 2", "heartbeat 1", "quiet 2", "quiet 1"),
        *("shutdown 2", "shutdown 1", "exit 2", "exit 1"),
    ] == told
    assert [("a handler of the user's", "quiet")] == errors


async def test_what_fails_at_the_start_ends_it(config: Config, desk: Desk):
    def fail() -> None:
        raise ValueError("no database")

    config.on("startup", fail)
    with pytest.raises(ValueError, match="no database"):
        await Runner(config, jobs=desk.jobs).start()


async def test_a_process_is_quieted_and_stopped_through_redis(config: Config, desk: Desk, redis_server: Server):
    runner = Runner(config, jobs=desk.jobs)
    running = asyncio.create_task(runner.run())
    await until(lambda: redis_server.call("SMEMBERS", "processes"))
    (identity,) = redis_server.call("SMEMBERS", "processes")
    redis_server.call("LPUSH", identity + b"-signals", "TSTP")
    await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
    await until(lambda: not runner.worker.ready)
    push(redis_server, "default", "Note", 1)
    redis_server.call("LPUSH", identity + b"-signals", "TERM")
    await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
    await asyncio.wait_for(running, PATIENCE)
    assert ([], 1) == (desk.ran, redis_server.call("LLEN", "queue:default"))


async def test_a_stop_gives_unfinished_jobs_back_uncounted(config: Config, desk: Desk, redis_server: Server):
    config.timeout = 0.1
    push(redis_server, "default", "Wait")
    async with Runner(config, jobs=desk.jobs):
        await until(lambda: desk.ran)
    assert (1, None) == (redis_server.call("LLEN", "queue:default"), redis_server.call("GET", "stat:processed"))
    assert 0 == redis_server.call("EXISTS", "pq:recovered")


async def test_the_same_jobs_run_on_any_broker(desk: Desk):
    config = Config()
    config.url, config.queues = "memory://", ["a", "b"]
    runner = Runner(config, jobs=desk.jobs)
    await runner.client.push({"class": "Note", "args": [1], "queue": "a"})
    await runner.client.push({"class": "Note", "args": [2], "queue": "b"})
    async with runner:
        await until(lambda: len(desk.ran) == 2)
    assert [(1,), (2,)] == sorted(desk.ran)


async def test_while_it_runs_jobs_are_pushed_with_its_client(config: Config, desk: Desk):
    before = job_route.installed()
    async with Runner(config, jobs=desk.jobs) as runner:
        assert runner.client is job_route.installed()
    assert before is job_route.installed()


async def test_two_classes_of_one_name_stop_a_worker_before_it_takes_a_job(config: Config, desk: Desk):
    class Other(Job, abstract=True):
        async def perform(self) -> None: ...

    desk.jobs._classes["Note"].append(Other)
    with pytest.raises(ConfigurationError, match="Note"):
        Runner(config, jobs=desk.jobs)


def recorded(scenario: str) -> dict[str, Any]:
    vectors = json.loads((Path(__file__).parents[1] / "data" / "sidekiq_8.json").read_text(encoding="utf-8"))
    (vector,) = [each for each in vectors if each["scenario"] == scenario]
    return dict(vector)


async def test_a_hard_stop_leaves_what_rubys_leaves(config: Config, desk: Desk, redis_server: Server):
    """Compared with a recorded stop of Sidekiq 8.1.7 in the midst of a job: the queue byte for byte."""
    vector = recorded("hard_shutdown_requeue")["keys"]
    waiting, running = vector["queue:default"]["items"]

    class PlainJob(Job, abstract=True):
        async def perform(self, *args: Any) -> None:
            desk.ran.append(args)
            await desk.gate.wait()

    desk.jobs.add(PlainJob, "PlainJob")
    redis_server.call("SADD", "queues", "default")
    redis_server.call("LPUSH", "queue:default", running, waiting)
    config.concurrency, config.timeout = 1, 0.1
    async with Runner(config, jobs=desk.jobs):
        await until(lambda: desk.ran)
    assert [("sleep", 30)] == desk.ran
    assert [waiting, running] == [raw.decode() for raw in redis_server.call("LRANGE", "queue:default", 0, -1)]
    assert vector["queues"]["members"] == [name.decode() for name in redis_server.call("SMEMBERS", "queues")]


async def test_a_clean_exit_leaves_what_rubys_leaves(config: Config, desk: Desk, redis_server: Server):
    """Compared with a recorded exit of Sidekiq 8.1.7 after two jobs that went well and one that failed."""
    vector = recorded("clean_exit_stats")["keys"]
    ((member, _),) = vector["retry"]["members"]
    theirs = json.loads(member)

    class FailJob(Job, abstract=True, retry=5):
        async def perform(self, *args: Any) -> None:
            raise RuntimeError(f"boom {list(args)}")

    desk.jobs.add(FailJob, "FailJob")
    recorded_of_failures = ("error_message", "error_class", "failed_at", "retry_count")
    pushed = {name: value for name, value in theirs.items() if name not in recorded_of_failures}
    async with Runner(config, jobs=desk.jobs):
        push(redis_server, "default", "Note", 1)
        push(redis_server, "default", "Note", 2)
        redis_server.call("LPUSH", "queue:default", json.dumps(pushed, separators=(",", ":")))
        await until(lambda: redis_server.call("GET", "stat:processed") == b"3")
    today = datetime.now(UTC).date().isoformat()
    for name in ("stat:processed", "stat:failed"):
        assert vector[name]["value"] == redis_server.call("GET", name).decode()
        (of_the_day,) = [key for recorded_name, key in vector.items() if recorded_name.startswith(f"{name}:")]
        assert of_the_day["value"] == redis_server.call("GET", f"{name}:{today}").decode()
        assert of_the_day["ttl"] - 60 < redis_server.call("TTL", f"{name}:{today}") <= of_the_day["ttl"]
    (raw,) = redis_server.call("ZRANGE", "retry", 0, -1)
    (score,) = [float(reply) for reply in redis_server.call("ZMSCORE", "retry", raw)]
    ours = json.loads(raw)
    assert 15 <= score - ours["failed_at"] / 1000 <= 26  # the first wait of the curve, and its jitter
    assert member.encode() == raw.replace(str(ours["failed_at"]).encode(), str(theirs["failed_at"]).encode())
    assert redis_server.call("GET", "process_cleanup").decode() == vector["process_cleanup"]["value"]
    assert 0 < redis_server.call("TTL", "process_cleanup") <= 60
    assert 0 == redis_server.call("SCARD", "processes")


async def test_a_process_says_of_itself_whatever_rubys_says(config: Config, desk: Desk, redis_server: Server):
    """Compared with a recorded heartbeat of Sidekiq 8.1.7: every key, field and name that a reader may ask for."""
    vector = recorded("heartbeat_and_work_while_busy")["keys"]
    (rubys,) = [dict(key["fields"]) for name, key in vector.items() if key["type"] == "hash" and ":work" not in name]
    (work,) = [key["fields"] for name, key in vector.items() if name.endswith(":work")]
    push(redis_server, "default", "Wait")
    async with Runner(config, jobs=desk.jobs) as runner:
        await until(lambda: desk.ran)
        await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
        (identity,) = redis_server.call("SMEMBERS", "processes")
        ours = {name.decode(): value for name, value in redis_server.call("HGETALL", identity).items()}
        assert rubys.keys() <= ours.keys()
        info, theirs = json.loads(ours["info"]), json.loads(rubys["info"])
        assert theirs.keys() <= info.keys()
        assert {name: type(value) for name, value in theirs.items()} == {name: type(info[name]) for name in theirs}
        (entry,) = redis_server.call("HVALS", identity + b":work")
        assert list(json.loads(work[0][1])) == list(json.loads(entry))
        assert [type(value) for value in json.loads(work[0][1]).values()] == [
            type(value) for value in json.loads(entry).values()
        ]
        assert 50 < redis_server.call("TTL", identity + b":work") <= 60
        assert 0 == redis_server.call("EXISTS", identity + b":workers")
        assert 0 < redis_server.call("TTL", identity) <= 60
        desk.gate.set()


async def test_middleware_that_wants_the_configuration_gets_it(config: Config, desk: Desk, redis_server: Server):
    seen: list[Any] = []

    class Curious:
        config: Any = None

        async def call(self, job: Any, payload: Any, queue: str, call_next: Any) -> Any:
            seen.append(self.config)
            return await call_next()

    config.server_middleware.add(Curious)
    push(redis_server, "default", "Note", 1)
    async with Runner(config, jobs=desk.jobs):
        await until(lambda: desk.ran)
    assert [config] == seen


async def test_a_thread_dump_that_nobody_answers_does_not_freeze_the_process(
    config: Config, desk: Desk, redis_server: Server, caplog: pytest.LogCaptureFixture
):
    async with Runner(config, jobs=desk.jobs) as runner:
        await until(lambda: redis_server.call("SMEMBERS", "processes"))
        (identity,) = redis_server.call("SMEMBERS", "processes")
        for name in ("TTIN", "USR2"):
            redis_server.call("LPUSH", identity + b"-signals", name)
            await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
            assert f"told by another process: {name}, to which there is no answer here" in caplog.text


async def test_a_process_that_comes_removes_those_that_have_died(config: Config, desk: Desk, redis_server: Server):
    redis_server.call("SADD", "processes", "dead:1:0")
    async with Runner(config, jobs=desk.jobs):
        await until(lambda: b"dead:1:0" not in redis_server.call("SMEMBERS", "processes"))
        await until(lambda: redis_server.call("EXISTS", "process_cleanup"))


async def test_a_server_that_evicts_is_warned_of_at_the_start(
    config: Config, desk: Desk, redis_server: Server, caplog: pytest.LogCaptureFixture
):
    redis_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        async with Runner(config, jobs=desk.jobs):
            assert "maxmemory-policy is 'allkeys-lru'" in caplog.text
    finally:
        redis_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_clean_exit_leaves_nothing_of_the_process(config: Config, desk: Desk, redis_server: Server):
    config.timestamps = "float"  # for fleets with an old Ruby in them
    push(redis_server, "default", "Wait")
    async with Runner(config, jobs=desk.jobs) as runner:
        await until(lambda: desk.ran)
        await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
        (identity,) = redis_server.call("SMEMBERS", "processes")
        redis_server.call("LPUSH", identity + b"-signals", "TTIN")
        assert redis_server.call("HGETALL", identity + b":work") == redis_server.call("HGETALL", identity + b":workers")
        assert 1 == redis_server.call("HLEN", identity + b":workers")
        desk.gate.set()
        await until(lambda: redis_server.call("GET", "stat:processed"))
    assert [] == redis_server.call("KEYS", identity + b"*")


async def test_what_the_configuration_says_reaches_what_runs(config: Config, desk: Desk, redis_server: Server):
    class Traced(Job, abstract=True, backtrace=True):
        async def perform(self) -> None:
            raise ValueError("no")

    class Nothing:
        def profile(self, payload: Any, /) -> Any: ...

        def follow(self, call: Any, /) -> Any:
            return call

    desk.jobs.add(Traced, "Traced")
    profiler = Nothing()
    config.max_retries, config.timeout, config.max_iteration_runtime = 7, 3.0, 60.0
    config.backtrace_cleaner, config.profiler = (lambda _: ["cleaned"]), profiler
    job = '{"class":"Traced","args":[],"jid":"t","queue":"default","backtrace":true}'
    redis_server.call("LPUSH", "queue:default", job)
    async with Runner(config, jobs=desk.jobs) as runner:
        options = runner.processor.options
        assert (7, 60.0, 3.0) == (options.max_retries, options.iterations.max_runtime, options.iterations.slow)
        assert profiler is options.profiler
        await until(lambda: redis_server.call("ZCARD", "retry"))
    (kept,) = redis_server.call("ZRANGE", "retry", 0, -1)
    assert ["cleaned"] == json.loads(zlib.decompress(base64.b64decode(json.loads(kept)["error_backtrace"])))


async def test_a_job_that_is_due_goes_through_the_processs_middleware(config: Config, desk: Desk, redis_server: Server):
    class Veto:
        async def call(self, job: Any, payload: Any, queue: str, broker: Any, call_next: Any) -> Any:
            return None if payload["args"] == ["no"] else await call_next()

    config.client_middleware.add(Veto)
    for args in ("no", "yes"):
        job = {"class": "Note", "args": [args], "jid": args, "queue": "default"}
        redis_server.call("ZADD", "schedule", 1, json.dumps(job))
    async with Runner(config, jobs=desk.jobs):
        await until(lambda: desk.ran)
    assert ([("yes",)], 0) == (desk.ran, redis_server.call("EXISTS", "schedule", "dead", "queue:default"))


async def test_an_embedded_process_is_not_told_through_redis(
    config: Config, desk: Desk, redis_server: Server, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", logger="penstock.sidekiq")
    async with Runner(config, jobs=desk.jobs, embedded=True) as runner:
        await until(lambda: redis_server.call("SMEMBERS", "processes"))
        (identity,) = redis_server.call("SMEMBERS", "processes")
        redis_server.call("LPUSH", identity + b"-signals", "TERM")
        await runner.broker.beat(runner.worker.presence(runner.broker), 20.0)
        push(redis_server, "default", "Note", 1)
        await until(lambda: desk.ran)
    assert "told by another process" not in caplog.text


class Marks:
    """A middleware that tells the desk its name."""

    seen: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    async def call(self, job: Job, payload: dict[str, Any], queue: str, call_next: Callable[[], Any]) -> Any:
        Marks.seen.append((self.name, queue))
        return await call_next()


class Inner(Marks): ...


async def test_a_capsule_has_middleware_of_its_own(config: Config, redis_server: Server):
    class Quick(Job):
        async def perform(self) -> None: ...

    Marks.seen.clear()
    config.server_middleware.add(Marks, "common")
    slow = config.capsule("slow", queues=["reports"])
    slow.server_middleware.add(Inner, "own")
    config.capsule("bare", queues=["bare"]).server_middleware.clear()
    async with Runner(config) as runner:
        for queue in ("default", "reports", "bare"):
            await Quick.set(queue=queue).perform_async()
        while b"3" != redis_server.call("GET", "stat:processed"):
            await asyncio.sleep(0.01)
        assert runner.worker.ready
    assert [("common", "default"), ("common", "reports"), ("own", "reports")] == sorted(Marks.seen)
