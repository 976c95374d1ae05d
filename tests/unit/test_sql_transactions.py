"""Taking part in the caller's transaction, on every SQL database: publishing in it, acknowledging in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from penstock import (
    App,
    Constant,
    Consumer,
    Context,
    Idempotency,
    Job,
    Producer,
    RetryPolicy,
    Worker,
    WorkerOptions,
    open_broker,
)
from penstock.broker import Subscription
from penstock.brokers.sql import SqlBroker
from penstock.clients.sql_libraries import connector
from penstock.context import current
from penstock.effects import Effects, SupportsTransaction
from penstock.errors import ConfigurationError, ConnectionFailed, LostLease, UnsupportedFeature
from penstock.job import JOBS
from penstock.testing import FaultProxy
from tests.servers.sql_server import SqlServer

SUBSCRIPTION = Subscription(source="payments", group="g", lease=30.0)


@pytest.fixture
def url(sql_server: SqlServer) -> str:
    return sql_server.url


@pytest.fixture
async def broker(url: str) -> AsyncIterator[SqlBroker]:
    broker = SqlBroker.from_url(url, create=True)
    await broker.fetch(SUBSCRIPTION, 0, 0.0)  # a group that is new waits for open transactions of publishers
    yield broker
    await broker.close()


@pytest.fixture
async def engine(broker: SqlBroker) -> AsyncIterator[AsyncEngine]:
    """The application's own engine, with a table of its own."""
    server = broker._options.server
    assert server is not None
    library = connector(broker._options, server)
    engine = create_async_engine(library.url, async_creator=library.connect)
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE IF EXISTS ledger"))
        await connection.execute(sa.text("CREATE TABLE ledger (entry INT)"))
    yield engine
    await engine.dispose()


async def entries(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return [*(await connection.execute(sa.text("SELECT entry FROM ledger ORDER BY entry"))).scalars()]


async def write(connection: Any, entry: int) -> None:
    await connection.execute(sa.text("INSERT INTO ledger VALUES (:entry)"), {"entry": entry})


async def test_what_is_sent_in_a_session_is_there_once_it_is_committed(broker: SqlBroker, engine: AsyncEngine) -> None:
    producer = Producer(broker, "payments", dict)
    async with AsyncSession(engine) as session:
        ident = await producer.send({"n": 1}, connection=session)
        await producer.send_many([{"n": 2}, {"n": 3}], connection=session)
        assert [] == list(await broker.fetch(SUBSCRIPTION, 10, 0.0))
        await session.commit()
    found = await broker.fetch(SUBSCRIPTION, 10, 0.0)
    assert [b'{"n":1}', b'{"n":2}', b'{"n":3}'] == [d.message.body for d in found]
    assert ident == found[0].message.id


async def test_what_is_sent_in_a_transaction_that_is_rolled_back_never_was(
    broker: SqlBroker, engine: AsyncEngine
) -> None:
    producer = Producer(broker, "payments", dict)
    async with engine.connect() as connection:
        await producer.send({"n": 1}, connection=connection)
        await connection.rollback()
    async with AsyncSession(engine) as session:
        await producer.send({"n": 2}, connection=session)
    assert [] == list(await broker.fetch(SUBSCRIPTION, 10, 0.0))


async def test_a_waiting_worker_hears_of_the_commit(broker: SqlBroker, engine: AsyncEngine) -> None:
    waiting = asyncio.ensure_future(broker.fetch(SUBSCRIPTION, 10, 10.0))
    await asyncio.sleep(0.1)
    async with AsyncSession(engine) as session:
        await Producer(broker, "payments", dict).send({"n": 1}, connection=session)
        await session.commit()
    assert 1 == len(await asyncio.wait_for(waiting, 5.0))


async def test_a_group_that_joined_after_the_callers_snapshot_gets_what_is_sent_in_it(
    broker: SqlBroker, engine: AsyncEngine
) -> None:
    """REPEATABLE READ, which is MySQL's default, goes on seeing the groups that there were."""
    first, second = (
        replace(SUBSCRIPTION, source="new"),
        replace(SUBSCRIPTION, source="new", group="later", start="next"),
    )
    producer = Producer(broker, "new", dict)
    await producer.send({"n": 0})
    for joins, seen in ((first, 2), (second, 1)):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(sa.text("SELECT count(*) FROM penstock_streams"))
            await broker.fetch(joins, 0, 0.0)
            await producer.send({"n": 1}, connection=connection)
            await connection.commit()
        assert seen == len(await broker.fetch(joins, 10, 0.0))


async def test_a_key_that_was_sent_after_the_callers_snapshot_is_not_sent_again(
    broker: SqlBroker, engine: AsyncEngine
) -> None:
    producer = Producer(broker, "payments", dict, idempotency=Idempotency(ttl=60.0))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(sa.text("SELECT count(*) FROM penstock_once"))
        await producer.send({"n": 1}, key="k")
        with contextlib.suppress(DBAPIError):  # PostgreSQL refuses, MySQL knows it
            await producer.send({"n": 1}, key="k", connection=connection)
            await connection.commit()
    assert 1 == len(await broker.fetch(SUBSCRIPTION, 10, 0.0))


async def test_a_handler_shares_the_transaction_of_its_acknowledgement(broker: SqlBroker, engine: AsyncEngine) -> None:
    async def pay(job: dict, context: Context) -> None:
        async with context.transaction() as connection:
            await write(connection, job["n"])
            if job["n"] == 2 and not context.attempt:
                raise ValueError("no")

    await work_off(broker, pay, [{"n": 1}, {"n": 2}, {"n": 3}])
    assert [1, 2, 3] == await entries(engine)


async def test_a_handler_acknowledges_in_a_session_of_its_own(broker: SqlBroker, engine: AsyncEngine) -> None:
    async def pay(job: dict, context: Context) -> None:
        async with AsyncSession(engine) as session:
            await write(session, job["n"])
            await context.ack_in(session)
            if job["n"] == 2 and not context.attempt:
                raise ValueError("no")
            await session.commit()

    await work_off(broker, pay, [{"n": 1}, {"n": 2}, {"n": 3}])
    assert [1, 2, 3] == await entries(engine)


async def test_a_failure_after_the_commit_is_no_reason_to_run_again(
    broker: SqlBroker, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def pay(job: dict, context: Context) -> None:
        async with context.transaction() as connection:
            await write(connection, job["n"])
        raise ValueError("too late")

    await work_off(broker, pay, [{"n": 1}])
    assert [1] == await entries(engine)
    assert "failed after its transaction was committed" in caplog.text


async def test_a_job_whose_transaction_failed_is_tried_again_and_counted_so(
    broker: SqlBroker, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs the jobs of an app makes outcomes of exceptions, so the engine sees none."""
    monkeypatch.setattr(JOBS, "_classes", {})

    class Pay(Job, queue="payments", backoff=0.05):
        n: int

        async def handle(self) -> None:
            context = current()
            assert context is not None
            async with AsyncSession(engine) as session:
                await write(session, self.n)
                await context.ack_in(session)
                if not context.attempt:
                    raise ValueError("the commit failed")
                await session.commit()

    async with App(broker) as app:
        consumer = app.consumer(WorkerOptions(queues=["payments"], group="g"))
        await app.push(Pay(1))
        async with Worker(consumer), asyncio.timeout(20):
            while not consumer.counters.acked:
                await asyncio.sleep(0.02)
        assert (1, 1, 0) == (consumer.counters.acked, consumer.counters.retried, consumer.counters.lost)
    assert [1] == await entries(engine)


async def test_who_lost_the_lease_cannot_commit(broker: SqlBroker, engine: AsyncEngine) -> None:
    await Producer(broker, "payments", dict).send({"n": 1})
    (delivery,) = await broker.fetch(SUBSCRIPTION, 10, 0.0)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE penstock_messages SET token = 1"))
    effect = Effects(broker, set()).of(delivery)

    async def pay() -> None:
        async with effect.transaction() as connection:
            await write(connection, 1)

    with pytest.raises(LostLease):
        await pay()
    assert [] == await entries(engine)


async def work_off(broker: SqlBroker, handler: Any, jobs: list[dict[str, int]]) -> None:
    """Run a worker until all of them are done; nothing is left then."""
    policy = RetryPolicy(backoff=Constant(delay=0.05))
    consumer = Consumer(broker, "payments", dict, handler, group="g", concurrency=2, retry=policy)
    await Producer(broker, "payments", dict).send_many(jobs)
    async with Worker(consumer), asyncio.timeout(20):
        while consumer.counters.acked < len(jobs):
            await asyncio.sleep(0.02)
    assert (len(jobs), 0) == (consumer.counters.acked, consumer.counters.lost)
    again = SqlBroker.from_url(f"{broker.url}?create=true")
    stats = await again.stats("payments")
    await again.close()
    assert (0, 0, 0) == (stats.size, stats.delayed, stats.dead)


@pytest.mark.timeout(30)
async def test_a_commit_that_nobody_answers_ends_with_the_deadline(url: str) -> None:
    port = int(url.rpartition(":")[2].partition("/")[0])
    async with FaultProxy("127.0.0.1", port) as proxy:
        broker = SqlBroker.from_url(url.replace(str(port), str(proxy.port)) + "?create=true&timeout=1")

        async def pay() -> None:
            async with broker.transaction() as connection:
                await connection.execute(sa.text("SELECT 1"))
                proxy.blackhole()

        with pytest.raises(ConnectionFailed):
            await pay()
        proxy.cut()
        proxy.heal()
        async with broker.transaction() as connection:
            assert 1 == await connection.scalar(sa.text("SELECT 1"))
        await broker.close()


async def test_sqlite_takes_part_in_a_plain_session(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    broker = SqlBroker.from_url(f"sqlite:///{path}")
    await broker.open()
    await broker.fetch(SUBSCRIPTION, 0, 0.0)
    producer, engine = Producer(broker, "payments", dict), sa.create_engine(f"sqlite:///{path}")
    with Session(engine) as session:
        await producer.send({"n": 0}, connection=session)
        session.rollback()
        await producer.send({"n": 1}, connection=session)
        assert [] == list(await broker.dead("payments", 1))
        session.commit()
    (delivery,) = await broker.fetch(SUBSCRIPTION, 10, 0.0)
    assert b'{"n":1}' == delivery.message.body
    with engine.connect() as connection:
        assert [] == list(await broker.ack_in(connection, [delivery]))
        connection.rollback()
        assert 1 == (await broker.stats("payments")).size
        assert [] == list(await broker.ack_in(connection, [delivery]))
        connection.commit()
    assert 0 == (await broker.stats("payments")).size
    engine.dispose()
    with pytest.raises(UnsupportedFeature, match="ack_in"):
        broker.transaction()
    await broker.close()


async def test_another_database_is_refused(broker: SqlBroker) -> None:
    engine = sa.create_engine("sqlite://")
    producer = Producer(broker, "payments", dict)
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="one transaction has one database"):
        await producer.send({"n": 1}, connection=connection)
    engine.dispose()
    with pytest.raises(ConfigurationError, match="AsyncConnection of SQLAlchemy's, got str"):
        await producer.send({"n": 1}, connection="here")


async def test_other_brokers_say_that_they_cannot() -> None:
    memory = open_broker("memory://")
    assert not isinstance(memory, SupportsTransaction)
    with pytest.raises(UnsupportedFeature, match="cannot take part in a transaction"):
        await Producer(memory, "payments", dict).send({"n": 1}, connection=object())
