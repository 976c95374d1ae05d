"""The hot path on SQLite: one writer at a time, so no other locks, and statements that take their many rows in one step.

A statement for many rows is one step of SQLite, during which other threads run; ``executemany`` would be a step, and a
fight for the interpreter, per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

import sqlalchemy as sa

from ...broker import Finding
from ...clients.sql import SqlOptions
from ...clients.sql_address import Family
from ...clients.sql_schema import Schema
from ...clock import Clock
from .diagnosis import diagnose
from .dialect import Dialect
from .rows import INSERTED, TAKEN, Lease, Receipt, Row, plain

# A few sizes, so that each is compiled once.
_CHUNKS = (80, 8, 1)


class SqliteDialect(Dialect):
    """Times are the injected clock's: SQLite has none of its own."""

    family: ClassVar[Family] = "sqlite"
    driver: ClassVar[str] = "pysqlite"
    max_body: ClassVar[int] = 512 * 1024 * 1024
    longest_name: ClassVar[int | None] = None

    def __init__(self, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        table = self._table = schema.messages.name
        columns = ("id", *INSERTED)
        values = f"({','.join('?' * len(columns))})"
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 -- the prefix is checked
        self._insert = {size: insert + ", ".join([values] * size) for size in _CHUNKS}
        taken = ", ".join((*TAKEN, "enqueued_at")).format(key="key").replace("payload", "CAST(payload AS BLOB)")
        self.waiting = (
            f"SELECT id FROM {table} AS m WHERE queue = ? AND grp = ? AND token IS NULL AND available_at <= ?{{}} "  # noqa: S608
            "ORDER BY available_at, id LIMIT ?"
        )
        free = (
            f" AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM {table} AS e WHERE e.queue = m.queue AND e.grp = m.grp"  # noqa: S608
            " AND e.key = m.key AND (e.id < m.id OR e.token IS NOT NULL)))"
        )
        claim = (
            f"UPDATE {table} SET token = ?, owner = ?, reserved_at = ?, lease_until = ?, deliveries = deliveries + 1 "  # noqa: S608
            f"WHERE id IN ({self.waiting}) RETURNING {taken}"
        )
        self._claim, self._keyed = claim.format(""), claim.format(free)
        self.waiting = self.waiting.format("")
        self._delete = f"DELETE FROM {table} WHERE token = ? AND id IN (SELECT value FROM json_each(?))"  # noqa: S608

    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        now = self._clock.time()
        # The ids behind the last one stay free for this transaction, which alone may write.
        last = conn.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (self._table,)).scalar()
        first, at = int(last or 0) + 1, 0
        made = [(first + n, *row[:7], now + row[7], now, *row[8:]) for n, row in enumerate(rows)]
        for size in _CHUNKS:
            while len(made) - at >= size:
                conn.exec_driver_sql(self._insert[size], tuple(chain.from_iterable(made[at : at + size])))
                at += size
        return list(range(first, first + len(made)))

    def claim(self, conn: sa.Connection, queue: str, group: str, limit: int, lease: Lease, *, keyed: bool) -> list[Row]:
        now = self._clock.time()
        written = (lease.token, lease.owner, now, now + lease.seconds)
        return plain(conn.exec_driver_sql(self._keyed if keyed else self._claim, (*written, queue, group, now, limit)))

    def delete(self, conn: sa.Connection, receipts: Sequence[Receipt]) -> set[int]:
        gone = set[int]()
        for token in {token for _, token in receipts}:
            gone |= self._delete_held(conn, token, [number for number, of in receipts if of == token])
        return gone

    def _delete_held(self, conn: sa.Connection, token: int, ids: Sequence[int]) -> set[int]:
        args = (token, str(list(ids)))
        conn.exec_driver_sql("SAVEPOINT deleting")
        if conn.exec_driver_sql(self._delete, args).rowcount == len(ids):
            conn.exec_driver_sql("RELEASE deleting")
            return set(ids)
        # Some were lost, and only the slower statement tells which.
        conn.exec_driver_sql("ROLLBACK TO deleting")
        gone = {int(row[0]) for row in conn.exec_driver_sql(f"{self._delete} RETURNING id", args).all()}
        conn.exec_driver_sql("RELEASE deleting")
        return gone

    def hold(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        """A transaction that writes is alone anyway."""

    def seize(self, conn: sa.Connection, queue: str) -> None:
        """A transaction that writes is alone anyway."""

    def diagnose(self, conn: sa.Connection, options: SqlOptions) -> list[Finding]:
        return diagnose(conn, options)
