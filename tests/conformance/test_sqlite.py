"""The delivery contract on SQLite. What is peculiar to it is in ``tests/unit/test_sql_*.py``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.broker import Broker, Retention
from penstock.brokers.sql import SqlBroker
from penstock.testing.conformance import BrokerConformance


class TestSqlite(BrokerConformance):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "jobs.db"

    async def make_broker(self) -> Broker[Any]:
        return SqlBroker.from_url(f"sqlite:///{self.path}", clock=self.clock)

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        return SqlBroker.from_url(f"sqlite:///{self.path}", clock=self.clock, retention=retention, **limits)

    async def forget_everything(self) -> bool:
        with self.other_program() as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type='table' AND name LIKE 'penstock%'")
            for (name,) in names.fetchall():
                connection.execute(f"DROP TABLE {name}")
        return True

    async def write_garbage(self, source: str) -> bool:
        with self.other_program() as connection:
            connection.execute(
                "INSERT INTO penstock_messages (queue, grp, type, headers, payload, available_at, created_at) "
                "SELECT queue, grp, 't', '{no json', x'ff00', 0, 0 FROM penstock_streams WHERE queue = ?",
                (source,),
            )
        return True

    @contextmanager
    def other_program(self) -> Iterator[sqlite3.Connection]:
        """Somebody else's connection to the same file."""
        with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
            yield connection
