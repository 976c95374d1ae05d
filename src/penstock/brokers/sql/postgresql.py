"""The hot path on PostgreSQL: whole batches as arrays, claims that pass over what others have locked.

``= ANY(ARRAY(SELECT …))`` makes the planner look the rows up by their key, whatever its statistics say of a table that
is empty at one moment and full at the next, and evaluates the limited selection exactly once.
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

_ARRAYS = dict(
    zip(
        GIVEN,
        ("varchar", "varchar", "varchar", "varchar", "text", "bytea", "int", "float8", "float8", "bigint"),
        strict=True,
    )
)


class PostgresDialect(Dialect):
    """Publishers and joining groups keep out of each other's way by advisory locks, which leave no trace on rows."""

    family: ClassVar[Family] = "postgresql"
    driver: ClassVar[str] = "asyncpg"
    max_body: ClassVar[int] = 256 * 1024 * 1024
    single_claim: ClassVar[bool] = True

    def __init__(self, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        table, now = schema.messages.name, self.sql.clock
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_ARRAYS.values(), 1))
        chosen = ", ".join((*GIVEN[:7], f"{now} + delay", f"{now}", *GIVEN[8:]))
        self._insert = (
            f"INSERT INTO {table} ({', '.join(INSERTED)}) SELECT {chosen} "  # noqa: S608 -- the prefix is checked
            f"FROM unnest({arrays}) WITH ORDINALITY AS given({', '.join(GIVEN)}, place) ORDER BY place RETURNING id"
        )
        taken = ", ".join((*TAKEN, "enqueued_at")).format(key="key")
        claim = (
            f"UPDATE {table} SET token = $1, owner = $2, reserved_at = {now}, lease_until = {now} + $3, "  # noqa: S608
            f"deliveries = deliveries + 1 WHERE id = ANY(ARRAY(SELECT id FROM {table} AS m WHERE queue = $4 AND grp = $5 "
            f"AND token IS NULL AND available_at <= {now}{{}} ORDER BY available_at, id LIMIT $6 FOR UPDATE SKIP LOCKED)) "
            f"RETURNING {taken}"
        )
        free = (
            f" AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM {table} AS e WHERE e.queue = m.queue AND e.grp = m.grp"  # noqa: S608
            " AND e.key = m.key AND (e.id < m.id OR e.token IS NOT NULL)))"
        )
        self._claim, self._keyed = claim.format(""), claim.format(free)
        self._delete = (
            f"DELETE FROM {table} AS m USING unnest($1::bigint[], $2::bigint[]) AS held(id, token) "  # noqa: S608
            "WHERE m.id = held.id AND m.token = held.token RETURNING m.id"
        )

    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        columns = tuple(list(column) for column in zip(*rows, strict=True))
        return [row[0] for row in plain(conn.exec_driver_sql(self._insert, columns))]

    def claim(self, conn: sa.Connection, queue: str, group: str, limit: int, lease: Lease, *, keyed: bool) -> list[Row]:
        args = (lease.token, lease.owner, float(lease.seconds), queue, group, limit)
        return plain(conn.exec_driver_sql(self._keyed if keyed else self._claim, args))

    def delete(self, conn: sa.Connection, receipts: Sequence[Receipt]) -> set[int]:
        held = sorted(set(receipts))  # in the order in which everybody locks rows: no deadlocks
        args = ([number for number, _ in held], [token for _, token in held])
        return {row[0] for row in plain(conn.exec_driver_sql(self._delete, args))}

    def hold(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        for queue in sorted(queues):
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(self._name(queue))))

    def seize(self, conn: sa.Connection, queue: str) -> None:
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(self._name(queue))))

    def announce(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        about = queues[0] if len(queues) == 1 else ""
        conn.execute(sa.select(sa.func.pg_notify(f"{self.schema.prefix}arrivals", about)))

    def diagnose(self, conn: sa.Connection, options: SqlOptions) -> list[Finding]:
        return diagnose_postgresql(conn, options)

    def _name(self, queue: str) -> sa.ColumnElement[int]:
        return sa.func.hashtextextended(f"{self.schema.prefix}{queue}", sa.literal(0, sa.BigInteger()))
