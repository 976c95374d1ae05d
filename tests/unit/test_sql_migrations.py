"""Making tables: on purpose, printed first, once, and never over those of a newer release."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.broker import Outgoing
from penstock.brokers.sql import SqlBroker
from penstock.cli.migrate import migrate as command
from penstock.cli.root import run
from penstock.clients.sql_migrating import migrate
from penstock.clients.sql_schema import VERSION
from penstock.errors import ConfigurationError, ConnectionFailed
from penstock.message import Message
from tests.servers.sql_server import SqlServer

ITEM = Outgoing(destination="q", message=Message(type="t", body=b"1"))


def test_a_broker_on_a_server_asks_for_the_migration(sql_server: SqlServer) -> None:
    async def story() -> None:
        broker = SqlBroker.from_url(sql_server.url)
        with pytest.raises(ConfigurationError, match="run `penstock migrate`"):
            await broker.open()
        await broker.close()
        assert [] == await sql_server.tables()
        printed = await migrate(sql_server.url, dry_run=True)
        assert [] == await sql_server.tables()
        done = await migrate(sql_server.url)
        assert printed == done
        assert [] == await migrate(sql_server.url)
        await broker.open()
        await broker.publish([ITEM])
        await broker.close()

    asyncio.run(story())


def test_the_printed_sql_makes_the_same_tables(sql_server: SqlServer) -> None:
    async def story() -> None:
        await sql_server.query(*await migrate(sql_server.url, dry_run=True))
        assert [] == await migrate(sql_server.url)

    asyncio.run(story())


def test_several_that_migrate_at_once_do_it_once(sql_server: SqlServer) -> None:
    async def story() -> None:
        done = await asyncio.gather(*[migrate(sql_server.url) for _ in range(4)])
        assert 1 == len([statements for statements in done if statements])

    asyncio.run(story())


def test_a_migration_that_was_killed_half_way_is_gone_on_with(sql_server: SqlServer) -> None:
    """On MySQL each statement is committed by itself: the last ones are those that are missing."""

    async def story() -> None:
        done = await migrate(sql_server.url)
        await sql_server.query("DELETE FROM penstock_schema", "DROP TABLE penstock_workers")
        again = await migrate(sql_server.url)
        assert (2, True) == (len(again), "penstock_workers" in again[0])
        assert {*again} < {*done}
        assert [] == await migrate(sql_server.url)

    asyncio.run(story())


def test_tables_of_a_newer_release_are_left_alone(sql_server: SqlServer) -> None:
    async def story() -> None:
        await migrate(sql_server.url)
        await sql_server.query("UPDATE penstock_schema SET version = 99")
        with pytest.raises(ConfigurationError, match="schema version 99"):
            await migrate(sql_server.url)
        broker = SqlBroker.from_url(sql_server.url)
        with pytest.raises(ConfigurationError, match="schema version 99"):
            await broker.open()
        await broker.close()

    asyncio.run(story())


def test_tables_that_vanish_under_a_worker_are_an_outage(sql_server: SqlServer) -> None:
    async def story() -> None:
        await migrate(sql_server.url)
        broker = SqlBroker.from_url(sql_server.url)
        await broker.publish([ITEM])
        await sql_server.wipe()
        with pytest.raises(ConnectionFailed, match="penstock migrate"):
            await broker.publish([ITEM])
        await migrate(sql_server.url)
        await broker.publish([ITEM])
        await broker.close()

    asyncio.run(story())


def test_the_command_prints_and_applies(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    printed = CliRunner().invoke(command, ["--broker", url, "--print"])
    assert "CREATE TABLE penstock_messages" in printed.stdout
    assert printed.stdout == CliRunner().invoke(command, ["--broker", url, "--dry-run"]).stdout
    assert printed.stdout == CliRunner().invoke(command, ["--broker", url]).stdout
    assert "" == CliRunner().invoke(command, ["--broker", url]).stdout


def test_a_broker_without_tables_is_told_apart() -> None:
    assert 2 == run(["migrate", "--broker", "redis://localhost"])


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP INDEX penstock_keyed")
        connection.execute("DROP TABLE penstock_keys")
        connection.execute("DROP TABLE penstock_bindings")
        connection.execute("UPDATE penstock_schema SET version = 1")

    async def story() -> None:
        broker = SqlBroker.from_url(f"sqlite:///{path}")
        await broker.publish([ITEM])
        await broker.close()

    asyncio.run(story())
    with closing(sqlite3.connect(path)) as connection:
        assert [(VERSION,)] == connection.execute("SELECT version FROM penstock_schema").fetchall()
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert {"penstock_keyed", "penstock_keys"} <= names
