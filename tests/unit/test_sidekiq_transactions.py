"""Jobs that wait for a commit."""

from __future__ import annotations

import pytest

from penstock.app import open_broker
from penstock.errors import ArgumentError, ConfigurationError
from penstock.inspector import Inspector
from penstock.job import Job
from penstock.job_route import install
from penstock.sidekiq import Client, TransactionClient


class PlainJob(Job, abstract=True):  # not registered: others have jobs of this name
    def perform(self, *args): ...


class Database:
    """As much of one as matters here."""

    def __init__(self):
        self.waiting = None

    def on_commit(self, call):
        if self.waiting is None:
            return False
        self.waiting.append(call)
        return True

    def begin(self):
        self.waiting = []

    def commit(self):
        calls, self.waiting = self.waiting, None
        for call in calls:
            call()

    def rollback(self):
        self.waiting = None


@pytest.fixture
def database():
    return Database()


@pytest.fixture
def client(database):
    yield TransactionClient(Client(open_broker("memory://")), database.on_commit).install()
    install(None)


async def sent(client):
    return [(message.headers["jid"], message.body) for message in await Inspector(client.client.broker).peek("default")]


async def test_a_job_pushed_within_a_transaction_is_in_the_broker_after_the_commit(client, database):
    database.begin()
    args = [1]
    jid = await PlainJob.perform_async(args)
    args.append("changed after the push")
    assert [] == await sent(client)
    database.commit()
    assert [(jid, b"[[1]]")] == await sent(client)


async def test_a_job_of_a_transaction_that_is_rolled_back_never_is(client, database):
    database.begin()
    assert await PlainJob.perform_async(1)
    database.rollback()
    assert [] == await sent(client)


async def test_outside_of_a_transaction_a_job_goes_at_once(client):
    jid = await PlainJob.perform_async(1)
    assert [(jid, b"[1]")] == await sent(client)


async def test_many_jobs_at_once_do_not_wait(client, database):
    database.begin()
    jids = await PlainJob.perform_bulk([(1,), (2,)])
    assert jids == [jid for jid, _ in await sent(client)]


async def test_what_is_wrong_is_told_at_once_and_not_after_the_commit(client, database):
    database.begin()
    with pytest.raises(ArgumentError, match="the arguments of PlainJob must be"):
        await PlainJob.perform_async((1,))
    with pytest.raises(ArgumentError, match="must be a mapping"):
        await client.push({"class": PlainJob})
    assert [] == database.waiting


async def test_one_class_may_wait_for_commits_alone(client, database):
    class Own(Job, pool=client):
        def perform(self): ...

    install(Client(client.client.broker))
    database.begin()
    await Own.perform_async()
    await PlainJob.perform_async(1)
    assert [b"[1]"] == [body for _, body in await sent(client)]
    database.commit()
    assert [b"[1]", b"[]"] == [body for _, body in await sent(client)]


def test_code_without_a_loop_waits_for_commits_as_well(client, database):
    database.begin()
    PlainJob.sync.perform_async(1)
    PlainJob.sync.perform_bulk([(2,)])
    database.commit()
    PlainJob.sync.perform_async(3)
    assert PlainJob.sync.perform_inline(4) is True

    import asyncio

    assert [b"[2]", b"[1]", b"[3]"] == [body for _, body in asyncio.run(sent(client))]


def test_what_it_is_made_of_is_checked(client):
    with pytest.raises(ConfigurationError, match="is a Client"):
        TransactionClient(client, lambda call: None)
    with pytest.raises(ConfigurationError, match="on_commit is a function"):
        TransactionClient(client.client, None)
