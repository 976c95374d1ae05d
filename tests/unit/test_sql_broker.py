"""What is peculiar to the SQL driver on SQLite; the delivery contract itself is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.dialects import sqlite

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sql import SqlBroker
from penstock.brokers.sql.sqlite import SqliteDialect
from penstock.clock import SYSTEM_CLOCK
from penstock.errors import BrokerError, ConfigurationError, ConnectionFailed, EncodeError, PublishError
from penstock.message import Delivery, Message
from penstock.outcome import Ack, DeadLetter, Release, Retry
from penstock.testing.clock import ManualClock

SUBSCRIPTION = Subscription(source="q", group="g", lease=30.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SqlBroker]:
    broker = SqlBroker.from_url(f"sqlite:///{path}")
    await broker.open()
    yield broker
    await broker.close()


@contextmanager
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """A plain client's connection, committed at the end."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        yield connection


def outgoing(body: bytes = b"1", **fields: Any) -> Outgoing:
    return Outgoing(destination="q", message=Message(type="t", body=body, **fields))


async def fetch(broker: SqlBroker, limit: int = 100, wait: float = 0.0) -> Sequence[Delivery[Any]]:
    return await broker.fetch(SUBSCRIPTION, limit, wait)


async def test_a_claim_walks_over_due_messages_only(broker: SqlBroker, path: Path) -> None:
    own = SqliteDialect(broker._schema, SYSTEM_CLOCK)
    lapsed = str(own.lapsed(["q"], "g", (0, None), 10).compile(dialect=sqlite.dialect()))
    with plain(path) as connection:
        for query, count, index in (
            (own.waiting, 4, "penstock_waiting (queue=? AND grp=? AND available_at<?)"),
            (lapsed, 8, "penstock_leased (queue=? AND grp=? AND lease_until<?)"),
        ):
            plan = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * count)]
            assert 1 == len(plan), "no sorting, no second step"
            assert plan[0].startswith("SEARCH ")
            assert index in plan[0]


async def test_the_columns_of_the_common_jobs_table_are_there(broker: SqlBroker, path: Path) -> None:
    with plain(path) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(penstock_messages)")}
    assert {"id", "queue", "payload", "attempts", "reserved_at", "available_at", "created_at"} <= columns


async def test_a_row_that_a_plain_client_wrote_is_a_message(broker: SqlBroker, path: Path) -> None:
    await fetch(broker)
    with plain(path) as connection:
        connection.execute(
            "INSERT INTO penstock_messages (queue, grp, type, payload, available_at, created_at) "
            "VALUES ('q', 'g', 'email.send', '{\"a\":\"ü\"}', 0, 0)"
        )
    (delivery,) = await fetch(broker)
    assert ("email.send", '{"a":"ü"}'.encode()) == (delivery.message.type, delivery.message.body)
    assert [delivery.message] == list(await broker.peek("q", 10))


async def test_a_group_that_a_plain_client_removed_is_made_again(broker: SqlBroker, path: Path) -> None:
    await fetch(broker)
    with plain(path) as connection:
        connection.execute("DELETE FROM penstock_streams")
    await broker.publish([outgoing()])
    assert 1 == len(await fetch(broker))


async def test_a_queue_that_was_left_out_for_a_while_is_looked_into_again(broker: SqlBroker, path: Path) -> None:
    """Its pause is over; nobody has written since, but to it, while it was not looked into."""
    both = replace(SUBSCRIPTION, source="all", queues=("q", "paused"))
    assert [] == list(await broker.fetch(both, 5, 0.0))
    with plain(path) as connection:
        connection.execute(
            "INSERT INTO penstock_messages (queue, grp, type, payload, available_at, created_at)"
            f" VALUES ('paused', '{both.group}', 't', 'x', 0, 0)"
        )
    for _ in range(3):
        assert [] == list(await broker.fetch(replace(both, queues=("q",)), 5, 0.0))
    assert ["paused"] == [d.source for d in await broker.fetch(both, 5, 0.0)]


async def test_ids_are_not_used_again(broker: SqlBroker) -> None:
    (first,) = await broker.publish([outgoing()])
    await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in await fetch(broker)])
    (second,) = await broker.publish([outgoing()])
    assert int(second) > int(first)


async def test_groups_share_the_id_of_a_message(broker: SqlBroker) -> None:
    others = [replace(SUBSCRIPTION, group=name) for name in "abc"]
    for each in others:
        await broker.fetch(each, 1, 0.0)
    ids = await broker.publish([outgoing(), outgoing()])
    for each in others:
        assert list(ids) == [d.message.id for d in await broker.fetch(each, 10, 0.0)]
    stats = await broker.stats("q")
    assert (2, 3) == (stats.size, len(stats.groups))


async def test_a_message_that_cannot_be_stored_spares_its_neighbours(broker: SqlBroker) -> None:
    half = "\ud800"
    bad = [
        Outgoing(destination="q", message=Message(type=half, body=b"")),
        Outgoing(destination=half, message=Message(type="t", body=b"")),
        replace(outgoing(key=half), once=60),
        outgoing(headers={"h": object()}),
        outgoing(attempt=2**70),
    ]
    batch = [outgoing(b"1"), *bad, outgoing(b"4")]
    with pytest.raises(PublishError) as caught:
        await broker.publish(batch)
    fates = caught.value.results
    assert [str, *[EncodeError] * len(bad), str] == [type(fate) for fate in fates]
    found = await fetch(broker)
    assert [(fates[0], b"1"), (fates[-1], b"4")] == [(d.message.id, d.message.body) for d in found]


async def test_a_lone_message_that_cannot_be_stored_says_so(broker: SqlBroker) -> None:
    with pytest.raises(PublishError, match="1 of 1 messages"):
        await broker.publish([Outgoing(destination="q", message=Message(type="\ud800", body=b""))])
    assert [] == list(await fetch(broker))


async def test_a_key_of_a_message_that_failed_is_not_taken(broker: SqlBroker) -> None:
    bad = Outgoing(destination="q", message=Message(type="t", key="k", body=b"", headers={"h": object()}), once=60)
    with pytest.raises(PublishError):
        await broker.publish([bad])
    await broker.publish([replace(outgoing(key="k"), once=60)])
    assert 1 == len(await fetch(broker))


async def test_strange_errors_and_meta_still_make_a_dead_letter(broker: SqlBroker) -> None:
    await broker.publish([outgoing()])
    (delivery,) = await fetch(broker)
    outcome = DeadLetter("half \ud800", ValueError("half \udfff"), meta={"x": object()})
    assert [] == list(await broker.settle([Settlement(delivery=delivery, outcome=outcome)]))
    (letter,) = await broker.dead("q", 10)
    assert ("half \\ud800", "ValueError: half \\udfff") == (letter.reason, letter.error)
    assert "object" in letter.meta


async def test_retries_come_back_in_the_order_in_which_they_are_due(broker: SqlBroker) -> None:
    await broker.publish([outgoing(b"%d" % n) for n in range(3)])
    delays = {b"0": 0.02, b"1": 0.0, b"2": 0.01}
    found = await fetch(broker)
    await broker.settle([Settlement(delivery=d, outcome=Retry(delays[d.message.body])) for d in found])
    again = [await fetch(broker, limit=1, wait=10.0) for _ in range(3)]
    assert [b"1", b"2", b"0"] == [d.message.body for batch in again for d in batch]


async def test_released_messages_keep_their_place(broker: SqlBroker) -> None:
    await broker.publish([outgoing(b"%d" % n) for n in range(4)])
    first, second = await fetch(broker, limit=2)
    await broker.settle([Settlement(delivery=d, outcome=Release()) for d in (second, first)])
    assert [b"0", b"1", b"2", b"3"] == [d.message.body for d in await fetch(broker)]


async def test_a_fork_settles_from_another_thread(broker: SqlBroker) -> None:
    await broker.publish([outgoing(), outgoing()])
    first, second = await fetch(broker)
    fork = broker.fork()

    async def elsewhere() -> None:
        assert [] == list(await fork.extend([first, second], 60.0))
        assert [] == list(await fork.settle([Settlement(delivery=first, outcome=Ack())]))
        await fork.close()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert [] == list(await broker.settle([Settlement(delivery=second, outcome=Ack())]))


async def test_a_fork_of_a_database_in_memory_sees_the_same() -> None:
    broker = SqlBroker.from_url("sqlite://")
    fork = broker.fork()
    await broker.publish([outgoing()])
    (delivery,) = await fork.fetch(SUBSCRIPTION, 10, 0.0)
    await fork.close()
    assert [] == list(await broker.settle([Settlement(delivery=delivery, outcome=Ack())]))
    assert not broker.capabilities.persistent
    assert "danger" in {finding.level for finding in await broker.diagnose()}
    await broker.close()


async def test_databases_in_memory_are_strangers() -> None:
    one, other = SqlBroker.from_url("sqlite://"), SqlBroker.from_url("sqlite:///:memory:")
    await one.publish([outgoing()])
    assert [] == list(await fetch(other))
    await one.close()
    await other.close()


async def test_prefixes_keep_systems_in_one_file_apart(broker: SqlBroker, path: Path) -> None:
    other = SqlBroker.from_url(f"sqlite:///{path}?prefix=shop_")
    await broker.publish([outgoing()])
    assert [] == list(await fetch(other))
    await other.close()


async def test_closing_gives_back_only_what_is_ones_own(broker: SqlBroker, path: Path) -> None:
    other = SqlBroker.from_url(f"sqlite:///{path}")
    await broker.publish([outgoing(b"1"), outgoing(b"2")])
    (kept,) = await fetch(broker, limit=1)
    await fetch(other, limit=1)
    await other.close()
    assert [b"2"] == [d.message.body for d in await fetch(broker)]
    assert [] == list(await broker.settle([Settlement(delivery=kept, outcome=Ack())]))


async def test_a_claim_whose_caller_was_cancelled_is_given_back(broker: SqlBroker, path: Path) -> None:
    await fetch(broker)
    await broker.publish([outgoing()])
    with plain(path) as connection:
        connection.execute("BEGIN IMMEDIATE")  # the claim waits in its thread
        fetching = asyncio.create_task(fetch(broker, wait=10.0))
        await asyncio.sleep(0.05)
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        connection.execute("ROLLBACK")
    other = SqlBroker.from_url(f"sqlite:///{path}")
    (delivery,) = await fetch(other, wait=10.0)
    assert 1 == delivery.count
    await other.close()


async def test_a_writer_waits_for_another(broker: SqlBroker, path: Path) -> None:
    with plain(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        publishing = asyncio.create_task(broker.publish([outgoing()]))
        await asyncio.wait([publishing], timeout=0.1)
        assert not publishing.done()
        connection.execute("COMMIT")
    assert 1 == len(await publishing)


async def test_opening_waits_for_a_writer(path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{path}")
    with plain(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(broker.open())
        await asyncio.wait([opening], timeout=0.1)
        assert not opening.done()
        connection.execute("COMMIT")
    await opening
    await broker.close()


async def test_a_database_locked_for_too_long_is_a_failed_connection(path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{path}?timeout=0.1")
    await broker.open()
    with plain(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConnectionFailed, match=r"locked by other writers for 0\.1 seconds"):
            await broker.publish([outgoing()])
        connection.execute("ROLLBACK")
    assert 1 == len(await broker.publish([outgoing()]))
    await broker.close()


async def test_a_file_that_was_removed_is_made_again(broker: SqlBroker, path: Path) -> None:
    await broker.publish([outgoing()])
    for each in path.parent.iterdir():
        each.unlink()
    await broker.publish([outgoing(b"2")])
    assert path.exists()
    assert [b"2"] == [d.message.body for d in await fetch(broker)]


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{tmp_path}/nowhere/jobs.db")
    with pytest.raises(ConnectionFailed, match=r"nowhere does not exist; create it first"):
        await broker.open()
    await broker.close()


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{tmp_path}")
    with pytest.raises(ConnectionFailed, match="it is a directory"):
        await broker.open()
    await broker.close()


async def test_a_file_of_something_else_is_left_alone(path: Path) -> None:
    path.write_text("no database" * 1000)
    broker = SqlBroker.from_url(f"sqlite:///{path}")
    with pytest.raises(BrokerError, match="no SQLite database"):
        await broker.open()
    await broker.close()
    assert path.read_text().startswith("no database")


async def test_tables_of_a_newer_release_are_left_alone(broker: SqlBroker, path: Path) -> None:
    await broker.close()
    with plain(path) as connection:
        connection.execute("UPDATE penstock_schema SET version = 99")
    with pytest.raises(ConfigurationError, match="schema version 99"):
        await broker.open()


async def test_expired_keys_do_not_pile_up(path: Path) -> None:
    clock = ManualClock()
    broker = SqlBroker.from_url(f"sqlite:///{path}", clock=clock)
    await broker.publish([replace(outgoing(key=f"{n}"), once=10) for n in range(50)])
    await clock.advance(11)
    await broker.publish([replace(outgoing(key="new"), once=10)])
    with plain(path) as connection:
        assert [("new",)] == connection.execute("SELECT key FROM penstock_once").fetchall()
    await broker.close()


async def test_sweeping_removes_keys_and_workers_that_are_over(path: Path) -> None:
    clock = ManualClock()
    broker = SqlBroker.from_url(f"sqlite:///{path}", clock=clock)
    await broker.publish([replace(outgoing(key="k"), once=10)])
    assert 0 == await broker.trim(SUBSCRIPTION)
    await clock.advance(11)
    assert 1 == await broker.trim(SUBSCRIPTION)
    await broker.close()


async def test_an_idle_subscription_leaves_the_database_alone(path: Path) -> None:
    clock = ManualClock()
    broker = SqlBroker.from_url(f"sqlite:///{path}", clock=clock)
    await fetch(broker)
    asked: list[str] = []
    await broker._runner.run(lambda conn: conn.connection.driver_connection.set_trace_callback(asked.append))

    async def listen() -> None:
        while True:
            await fetch(broker, wait=1.0)

    async def pass_by(seconds: float) -> None:
        for _ in range(int(seconds / 0.05)):
            await clock.advance(0.05)
            await broker._runner.changes()  # by then the thread has done what it was asked to do
            await asyncio.sleep(0)
            asked.remove("PRAGMA data_version")

    listening = asyncio.create_task(listen())
    await pass_by(10.0)
    asked.clear()
    await pass_by(10.0)
    listening.cancel()
    await asyncio.wait([listening])
    assert 0 < len(asked) < 50
    assert {"PRAGMA data_version"} == set(asked)
    await broker.close()


async def test_a_file_on_disk_is_diagnosed(broker: SqlBroker) -> None:
    findings = {finding.subject: finding for finding in await broker.diagnose()}
    disk = {"file system", "disk space", "wal size"}
    assert {"sqlite version", "journal_mode", "synchronous", "timeout"} | disk == findings.keys()
    assert "ok" == findings["journal_mode"].level


async def test_full_durability_syncs_every_commit(path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{path}", durability="full")
    findings = {finding.subject: finding for finding in await broker.diagnose()}
    assert findings["synchronous"].detail.startswith("full")
    await broker.close()


async def test_a_log_that_grew_and_a_hasty_timeout_are_told(path: Path) -> None:
    broker = SqlBroker.from_url(f"sqlite:///{path}", timeout=0.5)
    assert {"ok"} == {finding.level for finding in await broker.diagnose() if finding.subject == "wal size"}
    with Path(f"{path}-wal").open("r+b") as log:
        log.truncate(300 * 1024**2)  # a hole: it takes no space
    findings = {finding.subject: finding for finding in await broker.diagnose()}
    assert ("warning", "warning") == (findings["wal size"].level, findings["timeout"].level)
    await broker.close()
