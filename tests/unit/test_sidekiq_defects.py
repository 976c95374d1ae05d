"""What other ports of Sidekiq get wrong (numbered as in the analysis of one of them), where no other file shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.errors import ArgumentError, ConnectionFailed
from penstock.job import Job
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
