"""What other ports of Sidekiq get wrong (numbered as in the analysis of one of them), where no other file shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import job_route
from penstock.errors import ArgumentError, ConnectionFailed
from penstock.job import DISCARD, KILL, Job
from penstock.job_registry import Jobs
from penstock.sidekiq import Client, Config, Data, Queue, Runner
from penstock.testing import FlakyBroker
from tests.servers.redis_server import Server

PATIENCE = 15.0


@pytest.fixture
async def client(redis_server: Server) -> AsyncIterator[Client]:
    from penstock import open_broker

    redis_server.flush()
    client = Client(open_broker(f"sidekiq+{redis_server.url}"))
    yield client
    await client.broker.close()


async def test_t2_a_job_of_an_unknown_class_is_kept_and_tried_again(client: Client, redis_server: Server):
    config = Config()
    config.url = redis_server.url
    jid = await client.push({"class": "No::Such", "args": []})
    async with Runner(config, jobs=Jobs()), asyncio.timeout(PATIENCE):
        while not redis_server.call("ZCARD", "retry"):
            await asyncio.sleep(0.01)
    (raw,) = redis_server.call("ZRANGE", "retry", 0, -1)
    job = json.loads(raw)
    assert (jid, "NameError", 0, []) == (job["jid"], job["error_class"], job["retry_count"], job["args"])


async def test_t8_what_middleware_does_to_a_payload_is_not_what_is_retried(client: Client, redis_server: Server):
    class Spoil:
        async def call(self, job: Any, payload: dict[str, Any], queue: str, call_next: Any) -> Any:
            payload["args"] = ["spoilt"]
            payload["note"] = "only here"
            return await call_next()

    class Fail(Job, abstract=True):
        async def perform(self, *args: Any) -> None:
            raise ValueError(str(args))

    jobs: Jobs[Any] = Jobs()
    jobs.add(Fail, "Fail")
    config = Config()
    config.url = redis_server.url
    config.server_middleware.use(Spoil)
    await client.push({"class": "Fail", "args": [1]})
    async with Runner(config, jobs=jobs), asyncio.timeout(PATIENCE):
        while not redis_server.call("ZCARD", "retry"):
            await asyncio.sleep(0.01)
    (raw,) = redis_server.call("ZRANGE", "retry", 0, -1)
    job = json.loads(raw)
    assert ([1], "('spoilt',)", False) == (job["args"], job["error_message"], "note" in job)


async def test_t10_a_job_that_could_not_be_pushed_is_an_error_and_is_kept_nowhere(client: Client, redis_server: Server):
    flaky = FlakyBroker(client.broker)
    flaky.fail("publish", error=ConnectionFailed("gone"), times=1)
    pushing = Client(flaky)
    with pytest.raises(ConnectionFailed):
        await pushing.push({"class": "T", "args": [1]})
    assert await pushing.push({"class": "T", "args": [2]})
    assert [[2]] == [json.loads(raw)["args"] for raw in redis_server.call("LRANGE", "queue:default", 0, -1)]


async def test_t10_what_middleware_raises_is_raised_and_nothing_is_pushed_around_it(
    client: Client, redis_server: Server
):
    class Refuse:
        async def call(self, *_: Any) -> Any:
            raise ArgumentError("no")

    client.middleware.use(Refuse)
    for _ in range(2):
        with pytest.raises(ArgumentError):
            await client.push({"class": "T", "args": []})
    assert 0 == redis_server.call("EXISTS", "queue:default")


async def test_t9_a_job_that_runs_inline_tells_whether_it_ran_and_is_prepared_once(
    client: Client, redis_server: Server
):
    seen: list[dict[str, Any]] = []
    ran: list[Any] = []

    class Note:
        async def call(self, _job: Any, payload: dict[str, Any], _queue: str, _pool: Any, call_next: Any) -> Any:
            seen.append(payload)
            return await call_next()

    class Quick(Job, queue="low", tags=["a"]):
        async def perform(self, *args: Any) -> None:
            ran.append((self.jid, args))

    client.middleware.use(Note)
    with job_route.via(client):
        assert await Quick.set(sync=True).perform_async(1) is None  # there is no job to ask for
        assert await Quick.perform_inline(2) is True
        jid = await Quick.perform_async(3)
    assert [("low", ["a"], [number]) for number in (1, 2, 3)] == [
        (payload["queue"], payload["tags"], payload["args"]) for payload in seen
    ]
    assert [(payload["jid"], (number,)) for payload, number in zip(seen, (1, 2), strict=False)] == ran
    (raw,) = redis_server.call("LRANGE", "queue:low", 0, -1)
    assert (jid, False) == (seen[2]["jid"], jid in {name for name, _ in ran})
    assert jid == json.loads(raw)["jid"]


async def test_t14_cancelling_twice_does_not_keep_a_jobs_state_for_longer(client: Client, redis_server: Server):
    first = await client.cancel("j1")
    redis_server.call("EXPIRE", "it-j1", 60)
    assert first == await client.cancel("j1")
    assert 0 < redis_server.call("TTL", "it-j1") <= 60


@pytest.mark.parametrize("answer", [DISCARD, KILL])
async def test_t14_handlers_of_errors_hear_of_what_is_thrown_away(client: Client, redis_server: Server, answer: str):
    class Fail(Job, abstract=True):
        async def perform(self) -> None:
            raise ValueError("no")

    Fail.retry_in(lambda _count: answer)
    jobs: Jobs[Any] = Jobs()
    jobs.add(Fail, "Fail")
    config = Config()
    config.url = redis_server.url
    heard: asyncio.Queue[tuple[BaseException, Any]] = asyncio.Queue()
    config.error_handlers.append(lambda error, context, _config: heard.put_nowait((error, context)))
    jid = await client.push({"class": "Fail", "args": []})
    async with Runner(config, jobs=jobs), asyncio.timeout(PATIENCE):
        error, context = await heard.get()
    assert ("no", jid) == (str(error), context["job"]["jid"])
    assert (0, int(answer == KILL)) == (redis_server.call("ZCARD", "retry"), redis_server.call("ZCARD", "dead"))


@pytest.mark.parametrize(
    ("fields", "latency"),
    [({"enqueued_at": -60}, 60), ({"created_at": -60}, 60), ({"enqueued_at": -10, "created_at": -60}, 10), ({}, 0)],
)
@pytest.mark.parametrize("unit", [1, 1000])
async def test_t15_latency_is_read_from_either_time_in_either_unit(
    redis_server: Server, fields: dict[str, float], latency: float, unit: int
):
    redis_server.flush()
    async with Data.from_url(redis_server.url) as data:
        now = data.clock.time()
        times = {name: (int((now + ago) * 1000) if unit == 1000 else now + ago) for name, ago in fields.items()}
        redis_server.call("LPUSH", "queue:q", json.dumps({"class": "T", "args": [], "jid": "j", **times}))
        assert latency - 1 <= await Queue(data, "q").latency() <= latency + 5
