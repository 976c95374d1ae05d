"""The hot path on PostgreSQL: whole batches as arrays, claims that pass over what others have locked.

``ctid = ANY(ARRAY(SELECT …))`` goes straight to the rows that were locked, whatever the planner's statistics say of a
table that is empty at one moment and full at the next, and evaluates the limited selection exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import sqlalchemy as sa

from ...broker import Finding
from ...clients.sql import SqlOptions
from ...clients.sql_address import Family
from ...clients.sql_schema import Schema
from ...clock import Clock
from .dialect import Dialect
from .rows import GIVEN, INSERTED, TAKEN, Lease, Receipt, Row, plain
from .server_diagnosis import diagnose_postgresql

_TYPES = ("varchar", "varchar", "varchar", "varchar", "text", "bytea", "int", "float8", "float8", "bigint")


class PostgresDialect(Dialect):
    """Publishers and joining groups keep out of each other's way by advisory locks, which leave no trace on rows."""

    family: ClassVar[Family] = "postgresql"
    driver: ClassVar[str] = "asyncpg"
    max_body: ClassVar[int] = 256 * 1024 * 1024
    single_claim: ClassVar[bool] = True

    def __init__(self, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        table = schema.messages.name
        now = self._now = f"(SELECT {self.sql.clock})"  # in brackets: once for a statement, not for each row
        taken = ", ".join((*TAKEN, "enqueued_at")).format(key="key")
        claim = (
            f"UPDATE {table} SET token = $1, owner = $2, reserved_at = {now}, lease_until = {now} + $3, "  # noqa: S608
            f"deliveries = deliveries + 1 WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} AS m WHERE queue = $4 AND grp = $5 "
            f"AND token IS NULL AND available_at <= {now}{{}} ORDER BY available_at, id LIMIT $6 FOR UPDATE SKIP LOCKED)) "
            f"RETURNING {taken}"
        )
        free = (
            f" AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM {table} AS e WHERE e.queue = m.queue AND e.grp = m.grp"  # noqa: S608
            " AND e.key = m.key AND (e.id < m.id OR e.token IS NOT NULL)))"
        )
        self._claim, self._keyed = claim.format(""), claim.format(free)
        self._delete = f"DELETE FROM {table} WHERE id = ANY($1::bigint[]) AND token = $2 RETURNING id"  # noqa: S608
        self._inserts: dict[tuple[bool, ...], str] = {}
        lock = sa.func.hashtextextended(sa.bindparam("name", type_=sa.Text()), sa.literal(0, sa.BigInteger()))
        self._share = sa.select(sa.func.pg_advisory_xact_lock_shared(lock))
        self._exclude = sa.select(sa.func.pg_advisory_xact_lock(lock))
        self._notify = sa.select(sa.func.pg_notify(f"{schema.prefix}arrivals", sa.bindparam("about", type_=sa.Text())))

    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        columns = list(zip(*rows, strict=True))
        # What is the same for all is sent once: writing an array costs more than all the rest.
        same = tuple(column.count(column[0]) == len(rows) for column in columns)
        same = (*same[:5], False, *same[6:])  # the payload makes the rows
        text = self._inserts.get(same) or self._inserts.setdefault(same, self._insert(same))
        values = tuple(column[0] if one else list(column) for column, one in zip(columns, same, strict=True))
        return [row[0] for row in plain(conn.exec_driver_sql(text, values))]

    def _insert(self, same: Sequence[bool]) -> str:
        """The statement for rows that have these columns in common. Rows get their ids in the order of the arrays."""
        places = list(enumerate(zip(_TYPES, same, strict=True), 1))
        arrays = ", ".join(f"${n}::{kind}[]" for n, (kind, one) in places if not one)
        names = ", ".join(name for name, one in zip(GIVEN, same, strict=True) if not one)
        given = [f"${n}::{kind}" if one else name for name, (n, (kind, one)) in zip(GIVEN, places, strict=True)]
        given[7:8] = [f"{self._now} + {given[7]}", self._now]
        return (
            f"INSERT INTO {self.schema.messages.name} ({', '.join(INSERTED)}) "  # noqa: S608 -- the prefix is checked
            f"SELECT {', '.join(given)} FROM unnest({arrays}) AS given({names}) RETURNING id"
        )

    def claim(self, conn: sa.Connection, queue: str, group: str, limit: int, lease: Lease, *, keyed: bool) -> list[Row]:
        args = (lease.token, lease.owner, float(lease.seconds), queue, group, limit)
        return plain(conn.exec_driver_sql(self._keyed if keyed else self._claim, args))

    def delete(self, conn: sa.Connection, receipts: Sequence[Receipt]) -> set[int]:
        gone = set[int]()
        for token in sorted({token for _, token in receipts}):
            # In the order in which everybody locks rows: no deadlocks
            numbers = sorted({number for number, of in receipts if of == token})
            gone.update(row[0] for row in plain(conn.exec_driver_sql(self._delete, (numbers, token))))
        return gone

    def hold(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        for queue in sorted(queues):
            conn.execute(self._share, {"name": f"{self.schema.prefix}{queue}"})

    def seize(self, conn: sa.Connection, queue: str) -> None:
        conn.execute(self._exclude, {"name": f"{self.schema.prefix}{queue}"})

    def announce(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        conn.execute(self._notify, {"about": queues[0] if len(queues) == 1 else ""})

    def diagnose(self, conn: sa.Connection, options: SqlOptions) -> list[Finding]:
        return diagnose_postgresql(conn, options)
