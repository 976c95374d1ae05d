"""Testing modes: fake, inline, disabled; for the process, for a block, as fixtures."""

from __future__ import annotations

import asyncio
import threading

import pytest

from penstock.app import open_broker
from penstock.errors import ArgumentError, ConfigurationError, UnknownType
from penstock.inspector import Inspector
from penstock.job import Job, job
from penstock.job_route import install, installed
from penstock.sidekiq import Client
from penstock.testing.job_fixtures import fake_jobs, inline_jobs  # noqa: F401 fixtures
from penstock.testing.jobs import EmptyQueueError, Queues, Testing

DONE: list = []


class SumJob(Job, queue="sums"):
    async def perform(self, a, b):
        DONE.append((self.jid, a + b))


class EchoJob(Job):
    def perform(self, value):
        DONE.append((threading.current_thread() is threading.main_thread(), value))


class CountdownJob(Job):
    async def perform(self, left):
        DONE.append(left)
        if left:
            await CountdownJob.perform_async(left - 1)


class BreakJob(Job):
    async def perform(self):
        raise ZeroDivisionError


@job(queue="functions")
async def double(n):
    DONE.append(2 * n)


@pytest.fixture(autouse=True)
def _clean():
    DONE.clear()
    yield
    assert installed() is None
    assert [] == Queues.jobs


async def test_fake_jobs_are_kept_to_be_looked_at(fake_jobs):  # noqa: F811
    jid = await SumJob.perform_async(1, 2)
    await SumJob.perform_in(60, 3, 4)
    await double.set(tags=["a"]).perform_async(5)
    first, second = Testing.jobs(SumJob)
    assert (jid, "SumJob", [1, 2], "sums", True) == tuple(first[k] for k in ("jid", "class", "args", "queue", "retry"))
    assert first["enqueued_at"] >= first["created_at"] > 1e12
    assert (True, False) == ("at" in second, "enqueued_at" in second)
    assert [["a"]] == [payload["tags"] for payload in Queues["functions"]]
    assert {"sums": 2, "functions": 1} == {queue: len(jobs) for queue, jobs in fake_jobs.jobs_by_queue.items()}
    assert {"SumJob": 2, "double": 1} == {name: len(jobs) for name, jobs in fake_jobs.jobs_by_class.items()}
    assert [] == DONE


async def test_fake_jobs_are_forgotten_by_class_queue_and_id(fake_jobs):  # noqa: F811
    jid = await SumJob.perform_async(1, 2)
    await SumJob.perform_async(3, 4)
    await double.perform_async(5)
    await EchoJob.perform_async(5)
    Queues.delete_for(jid)
    assert [[3, 4]] == [payload["args"] for payload in Testing.jobs(SumJob)]
    Testing.clear(SumJob)
    Queues.clear("functions")
    assert ["EchoJob"] == [payload["class"] for payload in Queues.jobs]
    Testing.clear_all()
    assert [] == Queues.jobs


async def test_perform_one_performs_the_oldest_and_says_when_there_is_none(fake_jobs):  # noqa: F811
    jid = await SumJob.perform_async(1, 2)
    await SumJob.perform_async(3, 4)
    assert jid == (await Testing.perform_one(SumJob))["jid"]
    assert [(jid, 3)] == DONE
    await Testing.perform_one(SumJob)
    with pytest.raises(EmptyQueueError, match="no job of SumJob"):
        await Testing.perform_one(SumJob)


async def test_drain_performs_the_jobs_of_a_class_and_those_that_they_push(fake_jobs):  # noqa: F811
    await CountdownJob.perform_async(2)
    await double.perform_async(1)
    assert 3 == await Testing.drain(CountdownJob)
    assert [2, 1, 0] == DONE
    assert 1 == await Testing.drain(double)
    await CountdownJob.perform_async(1)
    await double.perform_async(1)
    assert 3 == await Testing.drain_all()
    assert 0 == await Testing.drain_all()


async def test_a_job_that_fails_fails_the_test_and_is_gone(fake_jobs):  # noqa: F811
    await BreakJob.perform_async()
    with pytest.raises(ZeroDivisionError):
        await Testing.drain_all()


def test_tests_without_a_loop_can_fake_as_well(fake_jobs):  # noqa: F811
    SumJob.sync.perform_async(1, 2)
    EchoJob.sync.perform_async(3)
    SumJob.sync.perform_bulk([(n, 0) for n in range(3)])
    Testing.sync.perform_one(SumJob)
    assert 3 == Testing.sync.drain(SumJob)
    assert 1 == Testing.sync.drain_all()
    assert [3, 0, 1, 2, 3] == [value for _, value in DONE]
    assert DONE[-1] == (False, 3)


async def test_inline_jobs_are_performed_where_they_are_pushed_as_they_would_arrive(inline_jobs):  # noqa: F811
    jid = await SumJob.perform_async(1, 2)
    await double.perform_in(60, 3)
    await EchoJob.perform_bulk([({"a": 1},), (2,)])
    assert [(jid, 3), 6, (False, {"a": 1}), (False, 2)] == DONE
    with pytest.raises(ZeroDivisionError):
        await BreakJob.perform_async()
    with pytest.raises(ArgumentError):
        await EchoJob.perform_async((1,))
    with pytest.raises(UnknownType, match="no job named 'Ruby::Job'"):
        await Client(open_broker("memory://")).push({"class": "Ruby::Job", "args": []})


async def test_middleware_of_the_client_is_passed_and_that_of_the_worker_only_if_testing_has_it(fake_jobs):  # noqa: F811
    class Veto:
        def call(self, job_class, payload, queue, broker, call_next):
            return None if payload["args"] == [0] else call_next()

    class Around:
        async def call(self, job, payload, queue, call_next):
            DONE.append(f"around {type(job).__name__}")
            return await call_next()

    client = Client(open_broker("memory://"))
    client.middleware.add(Veto)
    client.server_middleware.add(Around)
    with Client.via(client):
        assert await double.perform_async(0) is None
        await double.perform_async(1)
        await Testing.drain(double)
        assert [2] == DONE
        Testing.server_middleware.add(Around)
        await double.perform_async(1)
        await Testing.drain(double)
    assert [2, "around double", 2] == DONE


async def test_a_mode_of_a_block_is_this_tasks_alone_and_is_not_nested():
    broker = open_broker("memory://")
    client = Client(broker)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def faking():
        with Testing.mode("fake"):
            entered.set()
            await go_on.wait()
            await client.push({"class": "A", "args": [1]})
            assert 1 == len(Queues.jobs)
            Testing.clear_all()
            with pytest.raises(ConfigurationError, match="cannot be nested"), Testing.mode("inline"):
                pass

    other = asyncio.create_task(faking())
    await entered.wait()
    await client.push({"class": "A", "args": [2]})
    go_on.set()
    await other
    assert [b"[2]"] == [message.body for message in await Inspector(broker).peek("default")]


async def test_a_block_can_let_jobs_through_while_the_process_fakes(fake_jobs):  # noqa: F811
    broker = open_broker("memory://")
    with Testing.mode("disable"), Client.via(Client(broker)):
        await SumJob.perform_async(1, 2)
    assert [] == Queues.jobs
    assert 1 == len(await Inspector(broker).peek("sums"))
    with pytest.raises(ConfigurationError, match="the mode is one of"), Testing.mode("off"):
        pass


async def test_the_programs_own_client_stays_installed():
    client = Client(open_broker("memory://")).install()
    Testing.fake()
    await double.perform_async(1)
    Testing.inline()
    await double.perform_async(2)
    Testing.disable()
    await double.perform_async(3)
    assert installed() is client
    assert [[1]] == [payload["args"] for payload in Queues.jobs]
    assert [4] == DONE
    assert [b"[3]"] == [message.body for message in await Inspector(client.broker).peek("functions")]
    Testing.clear_all()
    install(None)
