"""The archive of jobs: truthful rows, none too many, none lost that was promised; the same on every database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    Ack,
    Archive,
    Batch,
    Consumer,
    DeadLetter,
    Options,
    Producer,
    PublishError,
    Release,
    Retry,
    RetryPolicy,
    Worker,
    open_broker,
)
from penstock.broker import Outgoing, Settlement
from penstock.clients.sql import SqlOptions, Work
from penstock.clients.sqlite import SqliteRunner
from penstock.errors import BrokerError, ConfigurationError, ConnectionFailed, InvalidURL, NotArchived
from penstock.job import JOBS, Job
from penstock.message import Delivery, Message
from penstock.outcome import DISCARDED
from penstock.producer import Idempotency
from penstock.sidekiq import Client, Processor
from penstock.stores.archive import archive as archive_module
from penstock.testing.wrapper import WrappedBroker

KINDS = ("sqlite", "postgres", "mysql")


def place(request: pytest.FixtureRequest, kind: str, file: Path) -> str:
    """A database of this kind: a file, or the run's server."""
    return f"sqlite:///{file}" if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_server").url)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request, request.param, tmp_path / "archive.db")


@pytest.fixture
async def archive(url: str) -> AsyncIterator[Archive]:
    mark = os.urandom(4).hex()
    archive = Archive.from_url(url, table=f"jobs_{mark}", logs_table=f"logs_{mark}", interval=0.05)
    await archive.setup()
    yield archive
    await archive._run(archive._tables.jobs.metadata.drop_all)
    await archive.close()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Callable[..., Archive]]:
    """Archives in one SQLite file, with options."""
    made: list[Archive] = []

    def make(**options: Any) -> Archive:
        made.append(Archive.from_url(f"sqlite:///{tmp_path}/local.db", **{"interval": 0.05, **options}))
        return made[-1]

    await make().setup()
    yield make
    for each in made:
        await each.close(0.2)


class Flaky:
    """A runner that fails as it is told: ``before`` the transaction, ``after`` its commit, or that ``hangs``."""

    def __init__(self, options: SqlOptions) -> None:
        self.inner = SqliteRunner(options, lambda _: None)
        self.before = self.after = 0
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.calls = 0

    async def run(self, work: Work[Any], *, write: bool = True) -> Any:
        self.calls += 1
        await self.hangs.wait()
        if self.before:
            self.before -= 1
            raise ConnectionFailed("the database is away")
        result = await self.inner.run(work, write=write)
        if self.after:
            self.after -= 1
            raise ConnectionFailed("the answer was lost")
        return result

    async def close(self) -> None:
        await self.inner.close()


def flaky(archive: Archive) -> Flaky:
    """Put one under the archive."""
    assert archive.file is not None
    made = Flaky(SqlOptions(path=archive.file))
    archive._make = lambda: made
    return made


async def statuses(archive: Archive) -> Counter[str]:
    return Counter(row.status for row in await archive.list(limit=10_000))


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


async def work_off(consumer: Consumer[Any], count: int) -> None:
    async with Worker(consumer):
        await until(lambda: consumer.counters.acked + consumer.counters.dead >= count)


# ------------------------------------------------------------------------------------------------------------ truthful rows


async def test_a_job_has_one_row_when_it_is_enqueued_and_one_when_it_ends(archive: Archive) -> None:
    broker = open_broker("memory://")

    async def handle(payload: dict[str, int]) -> None:
        if payload["n"] % 2:
            raise ValueError("no odd ones")

    consumer = Consumer(broker, "q", dict, handle, retry=RetryPolicy(max_attempts=3, backoff=0.0), archive=archive)
    producer = Producer(broker, "q", dict, archive=archive)
    first = await producer.send({"n": 0})
    others = await producer.send_many([{"n": n} for n in range(1, 20)])
    await work_off(consumer, 20)

    assert {"waiting": 20, "completed": 10, "failed": 10} == await statuses(archive)
    done, dead = await archive.find("q", first), await archive.find("q", others[0])
    assert done is not None
    assert ("completed", 1, b'{"n":0}') == (done.status, done.payload["attempts"], done.body)
    assert dead is not None
    assert ("failed", 3, "ValueError: no odd ones") == (
        dead.status,
        dead.payload["attempts"],
        dead.error,
    )
    assert "maxAttempts(3)" == dead.payload["reason"]


async def test_what_is_released_retried_or_lost_has_no_row(local: Callable[..., Archive]) -> None:
    archive = local()
    messages = [Message(id=f"{n}", type="t", body=b"{}") for n in range(4)]
    deliveries = [Delivery(message=each, source="q", group="g", receipt=0) for each in messages]
    outcomes = (Ack(), Retry(1.0), Release(), DISCARDED)
    settled = [Settlement(delivery=d, outcome=o) for d, o in zip(deliveries, outcomes, strict=True)]
    archive.settled(settled, confirmed=True)

    assert {"completed": 1, "discarded": 1} == await statuses(archive)


async def test_what_came_too_late_is_named_so(local: Callable[..., Archive]) -> None:
    archive, broker = local(), open_broker("memory://")
    ran: list[Any] = []
    producer = Producer(broker, "q", dict, archive=archive)
    await producer.send({}, expires=0.001)
    await asyncio.sleep(0.01)
    await work_off(Consumer(broker, "q", dict, ran.append, archive=archive), 1)
    await producer.send({}, expires=0.001)
    await asyncio.sleep(0.01)
    options = Options(expired="discard")
    await work_off(Consumer(broker, "q", dict, ran.append, archive=archive, options=options), 1)

    assert ({"waiting": 2, "expired": 1, "discarded": 1}, []) == (await statuses(archive), ran)


class Unsure(WrappedBroker):
    """Settles, and loses the first answer."""

    settled = 0

    async def settle(self, settlements: Any) -> Any:
        lost = await super().settle(settlements)
        self.settled += 1
        if self.settled == 1:
            raise ConnectionFailed("the answer was lost")
        return lost


async def test_an_outcome_of_which_nobody_knows_is_unconfirmed(local: Callable[..., Archive]) -> None:
    archive, broker = local(), Unsure(open_broker("memory://"))

    async def handle(_: dict[str, int]) -> None: ...

    consumer = Consumer(broker, "q", dict, handle, archive=archive)
    await Producer(broker, "q", dict).send({})
    async with Worker(consumer):
        await until(lambda: broker.settled == 2)
    (row,) = await archive.list()

    assert ("unconfirmed", "completed") == (row.status, row.payload["reason"])


class Dispossessed(WrappedBroker):
    """Another owner has everything."""

    settled = 0

    async def settle(self, settlements: Any) -> Any:
        self.settled += 1
        return [item.delivery for item in settlements]


async def test_an_outcome_under_a_lost_lease_has_no_row(local: Callable[..., Archive]) -> None:
    archive, broker = local(), Dispossessed(open_broker("memory://"))

    async def handle(_: dict[str, int]) -> None: ...

    consumer = Consumer(broker, "q", dict, handle, archive=archive)
    await Producer(broker, "q", dict).send({})
    async with Worker(consumer):
        await until(lambda: consumer.counters.lost > 0)

    assert {} == await statuses(archive)


async def test_only_what_is_asked_for_is_recorded(local: Callable[..., Archive]) -> None:
    archive = local(archive_enqueued=False, archive_completed=False)
    broker = open_broker("memory://")

    def handle(payload: dict[str, int]) -> Any:
        return DeadLetter("odd") if payload["n"] % 2 else None

    await Producer(broker, "q", dict, archive=archive).send_many([{"n": n} for n in range(4)])
    await work_off(Consumer(broker, "q", dict, handle, archive=archive), 4)

    assert {"failed": 2} == await statuses(archive)


async def test_each_group_has_an_end_of_its_own(local: Callable[..., Archive]) -> None:
    archive, broker = local(), open_broker("memory://")

    async def handle(_: dict[str, int]) -> None: ...

    consumers = [Consumer(broker, "q", dict, handle, group=name, archive=archive) for name in ("a", "b")]
    async with Worker(*consumers):
        await Producer(broker, "q", dict, archive=archive).send({})
        await until(lambda: all(each.counters.acked for each in consumers))

    assert ["a", "b"] == sorted(row.payload["group"] for row in await archive.list(status="completed"))


async def test_batch_handlers_have_their_rows_too(local: Callable[..., Archive]) -> None:
    archive, broker = local(), open_broker("sqlite://")

    async def handle(items: list[dict[str, int]]) -> list[Any]:
        return [DeadLetter("odd") if item["n"] % 2 else None for item in items]

    await Producer(broker, "q", dict, archive=archive).send_many([{"n": n} for n in range(10)])
    await work_off(Consumer(broker, "q", dict, handle, batch=Batch(size=4), archive=archive), 10)

    assert {"waiting": 10, "completed": 5, "failed": 5} == await statuses(archive)


async def test_a_job_keeps_its_name_where_the_brokers_ids_change(local: Callable[..., Archive], redis_url: str) -> None:
    archive, broker = local(), open_broker(redis_url)
    runs: list[str] = []

    async def handle(payload: dict[str, int]) -> None:
        runs.append("run")
        if len(runs) < 3:
            raise ValueError("not yet")

    consumer = Consumer(broker, "q", dict, handle, retry=RetryPolicy(max_attempts=3, backoff=0.0), archive=archive)
    await Producer(broker, "q", dict, archive=archive).send({"n": 1}, delay=0.01)
    await work_off(consumer, 1)
    rows = await archive.list()

    assert ["completed", "waiting"] == [row.status for row in rows]
    assert 1 == len({row.job_id for row in rows})


async def test_jobs_are_recorded_by_their_jid_one_by_one_and_in_bulk(local: Callable[..., Archive]) -> None:
    archive, broker = local(), open_broker("memory://")

    class Archived(Job):
        async def perform(self, n: int) -> None:
            if n == 2:
                raise ValueError("never 2")

    client = Client(broker, archive=archive)
    one = await client.push({"class": Archived, "args": [1], "retry": False})
    many = await client.push_bulk({"class": Archived, "args": [[2], [3]], "retry": False})
    consumer = Processor(JOBS).consumer(broker, "default", archive=archive)
    await work_off(consumer, 3)
    ends = {row.job_id: row.status for row in await archive.list() if row.status != "waiting"}

    assert {one: "completed", many[0]: "discarded", many[1]: "completed"} == ends
    assert 3 == await archive.count(status="waiting")


async def test_what_the_broker_did_not_take_has_no_row(local: Callable[..., Archive]) -> None:
    class Picky(WrappedBroker):
        async def publish(self, messages: Any) -> Any:
            raise PublishError(["7", BrokerError("too much"), "9"])

    archive = local()
    with pytest.raises(PublishError):
        await Producer(Picky(open_broker("memory://")), "q", dict, archive=archive).send_many([{}, {}, {}])

    assert ["7", "9"] == sorted(row.job_id for row in await archive.list())


async def test_what_is_sent_twice_but_published_once_has_one_row(archive: Archive) -> None:
    producer = Producer(open_broker("memory://"), "q", dict, idempotency=Idempotency(ttl=60), archive=archive)
    await producer.send({}, key="a")
    await archive.flush()
    await asyncio.gather(*(producer.send({}, key="a") for _ in range(3)))

    assert {"waiting": 1} == await statuses(archive)


# ------------------------------------------------------------------------------------------------------- nothing is lost


async def test_a_push_does_not_wait_for_a_database_that_is_away_and_nothing_is_lost(
    local: Callable[..., Archive],
) -> None:
    archive = local()
    runner = flaky(archive)
    runner.before = 1_000_000
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    began = time.monotonic()
    for n in range(50):
        await producer.send({"n": n})
    took = time.monotonic() - began
    await until(lambda: runner.calls > 0)
    assert 50 == archive.pending
    runner.before = 0

    assert {"waiting": 50} == await statuses(archive)
    assert took < 1.0


async def test_a_push_does_not_wait_for_a_database_that_hangs(local: Callable[..., Archive]) -> None:
    archive = local()
    runner = flaky(archive)
    runner.hangs.clear()
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    await producer.send({})
    await until(lambda: runner.calls > 0)
    for n in range(20):
        await producer.send({"n": n})
    assert not await archive.flush(0.01)
    archive._begun().thread.call_soon(runner.hangs.set)

    assert {"waiting": 21} == await statuses(archive)


async def test_a_lock_held_by_others_holds_up_nobody(local: Callable[..., Archive], tmp_path: Path) -> None:
    archive = local(timeout=0.1)
    other = sqlite3.connect(tmp_path / "local.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    await producer.send_many([{"n": n} for n in range(10)])
    await until(lambda: archive._engine is not None and archive._engine.writer.error is not None)
    await producer.send({})
    other.execute("COMMIT")
    other.close()

    assert {"waiting": 11} == await statuses(archive)


async def test_a_lost_answer_makes_no_second_row(archive: Archive, tmp_path: Path) -> None:
    runner = archive._begun().runner
    run, lost = runner.run, iter([True, True])

    async def losing(work: Work[Any], *, write: bool = True) -> Any:
        result = await run(work, write=write)
        if write and next(lost, False):
            raise ConnectionFailed("the answer was lost")
        return result

    runner.run = losing  # type: ignore[method-assign]
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send_many([{"n": n} for n in range(30)])
    await archive.archive_log("info", "one", worker_id="w")
    await archive.archive_log("info", "one", worker_id="w", timestamp=1.0)
    await archive.flush()

    assert ({"waiting": 30}, 2) == (await statuses(archive), await archive.count_logs())


async def test_a_full_buffer_drops_what_comes_counts_it_and_leaves_a_note(
    local: Callable[..., Archive], caplog: pytest.LogCaptureFixture
) -> None:
    archive = local(buffer_rows=10)
    runner = flaky(archive)
    runner.before = 1_000_000
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    await producer.send_many([{"n": n} for n in range(8)])
    await producer.send_many([{"n": n} for n in range(8)])
    assert (10, 6) == (archive.pending, archive.dropped)
    runner.before = 0

    assert {"waiting": 10} == await statuses(archive)
    await until(lambda: archive.dropped == 6 and archive.pending == 0)
    (note,) = await archive.list_logs(level="error")
    assert note.message.startswith("6 events of jobs are not in the archive")
    assert 1 == sum("its buffer is full" in record.message for record in caplog.records)


async def test_the_buffer_is_bounded_in_bytes_too(local: Callable[..., Archive]) -> None:
    archive = local(buffer_bytes=10_000)
    flaky(archive).before = 1_000_000
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send_many([{"n": "x" * 4000}] * 5)

    assert (3, 2) == (archive.pending, archive.dropped)


async def test_a_row_that_the_database_refuses_does_not_hold_up_its_neighbours(
    local: Callable[..., Archive], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / "local.db") as database:
        database.execute("CREATE TRIGGER picky BEFORE INSERT ON flux_job_archive WHEN new.queue = 'bad' BEGIN"
                         " SELECT RAISE(ABORT, 'not this'); END")  # fmt: skip
    archive, broker = local(), open_broker("memory://")
    for name in ("a", "bad", "b", "c"):
        await Producer(broker, name, dict, archive=archive).send({})

    assert ["a", "b", "c"] == sorted(row.queue for row in await archive.list())
    assert 1 == sum("refused a row" in record.message for record in caplog.records)


async def test_values_too_long_for_a_column_are_singled_out(archive: Archive) -> None:
    if archive.dialect == "sqlite":
        pytest.skip("its columns have no length")
    broker = open_broker("memory://")
    for name in ("a", "x" * 300, "b"):
        await Producer(broker, name, dict, archive=archive).send({})

    assert ["a", "b"] == sorted(row.queue for row in await archive.list())


async def test_hostile_text_is_kept_as_far_as_a_database_can(archive: Archive) -> None:
    broker = open_broker("memory://")
    text = "a\0b \ud800 🦀 ' \" % _ ! \\"
    message = Message(type=text, body=b"\xff\x00", headers={"h": text, "jobId": "x\0y"})
    archive.enqueued([Outgoing(destination="q'\0", message=message)], ["1"])
    failed = Delivery(message=Message(id="2", type="t", body=text.encode("utf-8", "surrogatepass")), source="q", group="g", receipt=0)  # fmt: skip
    archive.settled([Settlement(delivery=failed, outcome=DeadLetter(text, ValueError(text)))], confirmed=True)
    rows = await archive.list()

    assert 2 == len(rows)
    assert {b"\xff\x00", text.encode("utf-8", "surrogatepass")} == {row.body for row in rows}
    await broker.close()


async def test_a_very_large_body_is_named_but_not_kept(archive: Archive) -> None:
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send({"x": "y" * 2_000_000})
    (row,) = await archive.list()

    assert (None, 2_000_008) == (row.body, row.payload["bodyBytes"])


async def test_closing_writes_what_waits_and_using_it_again_begins_again(local: Callable[..., Archive]) -> None:
    archive = local(interval=60.0)
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    await producer.send({})
    assert await archive.close()
    await producer.send({})
    assert await archive.close()
    assert await archive.close()

    assert {"waiting": 2} == await statuses(archive)


async def test_what_cannot_be_written_at_the_close_is_said(
    local: Callable[..., Archive], caplog: pytest.LogCaptureFixture
) -> None:
    archive = local()
    flaky(archive).before = 1_000_000
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send({})

    assert not await archive.close(0.05)
    assert "1 rows of the archive" in caplog.text


async def test_a_stopping_worker_has_written_its_rows(local: Callable[..., Archive], tmp_path: Path) -> None:
    archive, broker = local(interval=60.0), open_broker("memory://")

    async def handle(_: dict[str, int]) -> None: ...

    await Producer(broker, "q", dict).send_many([{}] * 5)
    await work_off(Consumer(broker, "q", dict, handle, archive=archive), 5)

    with sqlite3.connect(tmp_path / "local.db") as database:
        assert [(5,)] == database.execute("SELECT count(*) FROM flux_job_archive").fetchall()


def run_script(tmp_path: Path, script: str) -> list[tuple[Any, ...]]:
    """Run a program to its end; the rows that it leaves."""
    head = f"""
import asyncio, os, sys
from penstock import Archive, Producer, open_broker
archive = Archive.from_url("sqlite:///{tmp_path}/exit.db", interval=60.0)
async def push(n):
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send({{"n": n}})
asyncio.run(archive.setup())
"""
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    with sqlite3.connect(tmp_path / "exit.db") as database:
        return database.execute("SELECT json_extract(payload, '$.data') FROM flux_job_archive ORDER BY 1").fetchall()


def test_the_end_of_the_interpreter_writes_what_waits(tmp_path: Path) -> None:
    assert [('{"n":1}',)] == run_script(tmp_path, "asyncio.run(push(1))")


def test_a_fork_writes_its_own_rows_and_not_its_parents(tmp_path: Path) -> None:
    script = """
asyncio.run(archive.close())  # SQLite's locks do not survive a fork
pid = os.fork()
asyncio.run(push(2 if pid else 3))
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert [('{"n":2}',), ('{"n":3}',)] == run_script(tmp_path, script)


# ------------------------------------------------------------------------------------------------------------------- sync


async def test_with_sync_a_push_returns_when_its_row_is_there(local: Callable[..., Archive], tmp_path: Path) -> None:
    archive = local(audit="sync", interval=60.0)
    producer = Producer(open_broker("memory://"), "q", dict, archive=archive)
    ident = await producer.send({})
    with sqlite3.connect(tmp_path / "local.db") as database:
        assert [(ident,)] == database.execute("SELECT job_id FROM flux_job_archive").fetchall()
    await producer.send_many([{}] * 3)
    with sqlite3.connect(tmp_path / "local.db") as database:
        assert [(4,)] == database.execute("SELECT count(*) FROM flux_job_archive").fetchall()


async def test_with_sync_a_failing_archive_is_told_and_then_nothing_more_is_published(
    local: Callable[..., Archive],
) -> None:
    archive, broker = local(audit="sync"), open_broker("memory://")
    runner = flaky(archive)
    runner.before = 1_000_000
    producer = Producer(broker, "q", dict, archive=archive)
    with pytest.raises(NotArchived) as told:
        await producer.send({"n": 1})
    with pytest.raises(ConnectionFailed, match="nothing was published"):
        await producer.send({"n": 2})
    assert 1 == (await broker.stats("q")).size
    runner.before = 0

    row = await archive.find("q", told.value.id)
    assert row is not None
    assert b'{"n":1}' == row.body
    await producer.send({"n": 2})


async def test_with_sync_each_message_of_a_bulk_has_its_fate(local: Callable[..., Archive]) -> None:
    archive = local(audit="sync")
    flaky(archive).before = 1_000_000
    with pytest.raises(PublishError, match="3 of 3 messages were not archived") as told:
        await Producer(open_broker("memory://"), "q", dict, archive=archive).send_many([{}] * 3)

    assert ["1", "2", "3"] == [fate.id for fate in told.value.results if isinstance(fate, NotArchived)]


async def test_with_sync_an_outside_cache_keeps_the_key_of_what_was_published(local: Callable[..., Archive]) -> None:
    from penstock.stores.memory import MemoryStore

    archive, broker = local(audit="sync"), open_broker("memory://")
    runner = flaky(archive)
    runner.before = 1
    cache = Idempotency(ttl=60, cache=MemoryStore())
    producer = Producer(broker, "q", dict, idempotency=cache, archive=archive)
    with pytest.raises(NotArchived):
        await producer.send({}, key="a")
    await archive.flush()
    await producer.send({}, key="a")

    assert 1 == (await broker.stats("q")).size


async def test_with_sync_a_consumer_waits_for_its_rows(local: Callable[..., Archive]) -> None:
    archive, broker = local(audit="sync"), open_broker("memory://")
    runner = flaky(archive)
    runner.before = 3

    async def handle(_: dict[str, int]) -> None: ...

    await Producer(broker, "q", dict).send_many([{}] * 5)
    await work_off(Consumer(broker, "q", dict, handle, archive=archive), 5)

    assert {"completed": 5} == await statuses(archive)


# -------------------------------------------------------------------------------------------------------------- questions


async def fill(archive: Archive, count: int = 6) -> None:
    """Rows at the seconds 1000, 1001 …, alternately in two queues."""
    for n in range(count):
        message = Message(type="mail", body=b'{"to":"%d%%_x"}' % n, enqueued_at=1000.0 + n)
        archive.enqueued([Outgoing(destination=f"q{n % 2}", message=message)], [f"job-{n}"])
    await archive.flush()


async def test_rows_are_listed_newest_first_and_chosen_by_everything(archive: Archive) -> None:
    await fill(archive)

    async def ids(*args: Any, **wanted: Any) -> list[str]:
        return [row.job_id for row in await archive.list(*args, **wanted)]

    assert ["job-5", "job-4", "job-3", "job-2", "job-1", "job-0"] == await ids()
    assert ["job-4", "job-2"] == await ids("q0", limit=2)
    assert ["job-0"] == await ids("q0", offset=2)
    assert ["job-3", "job-2"] == await ids(start_time=1002.0, end_time=1003.0)
    assert ["job-3"] == await ids(job_id="job-3")
    assert [] == await ids(status="failed")
    assert (6, 3, 2) == (
        await archive.count(),
        await archive.count("q1"),
        await archive.count(start_time=1002.0, end_time=1003.0),
    )
    (row,) = await archive.list(job_id="job-3")
    assert (1003.0, 1003.0, "mail", "waiting") == (row.created_at, row.archived_at, row.type, row.status)


async def test_text_is_searched_as_it_is_written(archive: Archive) -> None:
    await fill(archive)

    async def ids(text: str, **wanted: Any) -> list[str]:
        return sorted(row.job_id for row in await archive.search(text, **wanted))

    assert ["job-3"] == await ids("3%_x")
    assert [] == await ids("3%x")
    assert [] == await ids("j_b-")
    assert ["job-1", "job-3", "job-5"] == await ids("job-", ids_only=True, queue="q1")
    assert [] == await ids("ob-", ids_only=True)
    assert ["job-2"] == await ids("job-2")
    assert 6 == await archive.count(text="mail")


async def test_the_last_word_about_a_job_is_its_end_whatever_the_clocks_say(archive: Archive) -> None:
    message = Message(id="7", type="t", body=b"{}")
    delivery = Delivery(message=message, source="q", group="g", receipt=0)
    archive.settled([Settlement(delivery=delivery, outcome=Ack())], confirmed=True)
    late = Message(type="t", body=b"{}")
    archive.enqueued([Outgoing(destination="q", message=late)], ["7"])
    found = await archive.find("q", "7")

    assert found is not None
    assert "completed" == found.status
    assert None is await archive.find("other", "7")


async def test_ids_and_times_are_found_by_an_index(local: Callable[..., Archive], tmp_path: Path) -> None:
    archive = local()
    seen: list[str] = []
    asked = archive._run

    async def watched(work: Work[Any], *, write: bool = True) -> Any:
        def explain(conn: Any) -> Any:
            plain = conn.execute

            def execute(statement: Any, *args: Any) -> Any:
                text = str(statement.compile(conn, compile_kwargs={"literal_binds": True}))
                seen.extend(row[3] for row in conn.exec_driver_sql("EXPLAIN QUERY PLAN " + text))
                return plain(statement, *args)

            conn.execute = execute
            return work(conn)

        return await asked(explain, write=write)

    archive._run = watched  # type: ignore[method-assign]
    await archive.search("job-1", ids_only=True)
    await archive.find("q", "job-1")
    await archive.list("q", limit=5)
    await archive.list(status="failed", limit=5)

    assert not [step for step in seen if step.startswith("SCAN")]
    used = {word for step in seen for word in step.split() if word.startswith("flux_job_archive_")}
    assert {f"flux_job_archive_{name}_index" for name in ("job_id", "queue_archived_at", "status_archived_at")} == used


async def test_log_lines_are_kept_and_asked_for_with_the_same_care(archive: Archive) -> None:
    for n in range(4):
        await archive.archive_log(
            "info" if n % 2 else "error", f"line {n} 100%", worker_id=f"w{n % 2}", queue="q", timestamp=50.0 + n
        )
    assert ["line 3 100%", "line 2 100%"] == [line.message for line in await archive.list_logs(limit=2)]
    assert ["line 2 100%", "line 0 100%"] == [line.message for line in await archive.list_logs(worker_id="w0")]
    assert [52.0] == [line.timestamp for line in await archive.list_logs(search="2 100%")]
    assert (2, 3, 0, 4) == (
        await archive.count_logs(level="error"),
        await archive.count_logs(start_time=51.0),
        await archive.count_logs(search="l_ne"),
        await archive.count_logs(queue="q"),
    )


# ----------------------------------------------------------------------------------------------------------- housekeeping


async def test_a_cleanup_deletes_what_is_older_in_small_steps(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "PRUNED", 2)
    await fill(archive, 5)
    await archive.archive_log("info", "old", worker_id="w", timestamp=1000.0)
    await Producer(open_broker("memory://"), "new", dict, archive=archive).send({})

    assert 6 == await archive.cleanup(3600.0)
    assert (["new"], 0) == ([row.queue for row in await archive.list()], await archive.count_logs())
    assert 0 == await archive.cleanup(3600.0)


async def test_a_worker_deletes_what_the_retention_does_not_keep(local: Callable[..., Archive]) -> None:
    archive, broker = local(retention=3600.0), open_broker("memory://")
    await fill(archive)

    async def handle(_: dict[str, int]) -> None: ...

    async with Worker(Consumer(broker, "q", dict, handle, archive=archive)):
        async with asyncio.timeout(10):
            while await archive.count():
                await asyncio.sleep(0.01)


async def test_an_archive_without_retention_keeps_everything(local: Callable[..., Archive]) -> None:
    archive = local()
    await fill(archive)

    assert (0, 6) == (await archive.prune(), await archive.count())


async def test_setting_up_twice_makes_nothing_twice(archive: Archive) -> None:
    assert [] == list(await archive.setup())


async def test_the_printed_sql_is_what_setup_does(tmp_path: Path) -> None:
    archive = Archive.from_url(f"sqlite:///{tmp_path}/by_hand.db")
    with sqlite3.connect(tmp_path / "by_hand.db") as database:
        for statement in archive.statements():
            database.execute(statement)

    assert [] == list(await archive.setup())
    await archive.close()


async def test_without_tables_it_says_how_to_make_them_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = Archive.from_url(f"sqlite:///{tmp_path}/none.db", interval=0.01)
    await Producer(open_broker("memory://"), "q", dict, archive=archive).send({})
    await until(lambda: "penstock archive setup" in caplog.text)
    with pytest.raises(BrokerError, match="penstock archive setup"):
        await archive._run(lambda conn: conn.exec_driver_sql("SELECT 1 FROM flux_job_archive").first())
    await archive.setup()

    assert {"waiting": 1} == await statuses(archive)
    await archive.close()


ORIGINAL = {
    "sqlite": """CREATE TABLE {} (id INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, queue TEXT NOT NULL,
        status TEXT NOT NULL, payload TEXT NOT NULL, error TEXT, created_at TEXT, archived_at TEXT)""",
    "mysql": """CREATE TABLE {} (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, job_id VARCHAR(64) NOT NULL,
        queue VARCHAR(128) NOT NULL, status VARCHAR(20) NOT NULL, payload JSON NOT NULL, error TEXT NULL,
        created_at TIMESTAMP NULL, archived_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)""",
}


@pytest.fixture(params=sorted(ORIGINAL))
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A kind of database, and where one is."""
    return request.param, place(request, request.param, tmp_path / "original.db")


async def test_the_originals_table_is_read_and_written(original: tuple[str, str]) -> None:
    kind, where = original
    name = f"old_{os.urandom(4).hex()}"
    archive = Archive.from_url(where, table=name, logs_table=f"{name}_logs")
    moment = "2026-01-24T09:30:00.000Z" if kind == "sqlite" else "2026-01-24 09:30:00"
    payload = '{"id":"1795-abc","type":"class","className":"SendMail","data":"{}","createdAt":1,"attempts":0}'
    values = f"VALUES ('1795-abc', 'emails', 'failed', '{payload}', 'smtp down', '{moment}', '{moment}')"

    def prepare(conn: Any) -> None:
        conn.exec_driver_sql(ORIGINAL[kind].format(name))
        columns = "(job_id, queue, status, payload, error, created_at, archived_at)"
        conn.exec_driver_sql(f"INSERT INTO {name} {columns} {values}")

    await archive._run(prepare)
    made = await archive.setup()
    old = await archive.find("emails", "1795-abc")
    await Producer(open_broker("memory://"), "emails", dict, archive=archive).send({"n": 1})
    new = (await archive.list("emails"))[0]

    assert name not in made
    assert f"{name}_job_id_index" in made
    assert old is not None
    assert ("SendMail", "failed", "smtp down", 1769247000.0) == (
        old.type,
        old.status,
        old.error,
        old.archived_at,
    )
    assert ("waiting", "msg", b'{"n":1}') == (new.status, new.type, new.body)
    await archive._run(archive._tables.jobs.metadata.drop_all)
    await archive.close()


# ------------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"audit": "later"}, "audit is one of 'async', 'sync', got 'later'"),
        ({"table": 'x"; DROP TABLE jobs'}, "table is up to 41 letters"),
        ({"table": "t", "logs_table": "t"}, "two tables"),
        ({"batch": 0}, "batch is a whole number and at least 1, got 0"),
        ({"interval": 0}, "interval, in seconds, is a number and more than 0, got 0"),
        ({"retention": -1}, "retention, in seconds, is a number and more than 0, got -1"),
        ({"colour": "red"}, "an archive has no option colour"),
    ],
)
def test_wrong_options_are_told_where_they_are_given(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        Archive.from_url("sqlite:///x.db", **options)
    assert said in str(told.value)


@pytest.mark.parametrize("wrong", ["redis://x", "archive.db", "postgresql://host", "mysql://u:secret@h"])
def test_a_wrong_address_is_told_without_its_password(wrong: str) -> None:
    with pytest.raises(InvalidURL) as told:
        Archive.from_url(wrong)
    assert "secret" not in str(told.value)


def test_an_archive_does_not_show_its_password() -> None:
    pytest.importorskip("asyncpg")
    pytest.importorskip("greenlet")
    assert "Archive('postgresql://u:***@h/d')" == repr(Archive.from_url("postgresql://u:secret@h/d"))


async def test_making_an_archive_touches_nothing(tmp_path: Path) -> None:
    Archive.from_url(f"sqlite:///{tmp_path}/none.db")
    assert [] == list(tmp_path.iterdir())
