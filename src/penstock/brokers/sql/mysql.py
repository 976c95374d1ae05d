"""The hot path on MySQL and MariaDB, which return no rows from an update: rows are locked, then written.

Everything runs READ COMMITTED: the gap locks of InnoDB's default would make claims wait for publishers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import ClassVar

import sqlalchemy as sa

from ...broker import Finding
from ...clients.sql import SqlOptions
from ...clients.sql_address import Family
from ...clients.sql_schema import Schema
from ...clock import Clock
from .dialect import Dialect
from .rows import INSERTED, TAKEN, Lease, Receipt, Row, plain
from .server_diagnosis import diagnose_mysql

_ROWS, _BYTES = 500, 1024 * 1024  # of one INSERT: well below max_allowed_packet, even when every byte is escaped


class MySQLDialect(Dialect):
    """Publishers and joining groups keep out of each other's way by a lock on the queue's row in ``locks``."""

    family: ClassVar[Family] = "mysql"
    driver: ClassVar[str] = "aiomysql"
    max_body: ClassVar[int] = 7 * 1024 * 1024  # escaped it may be twice as long, and 16 MiB is the usual packet

    def __init__(self, schema: Schema, clock: Clock) -> None:
        super().__init__(schema, clock)
        table, now = schema.messages.name, self.sql.clock
        columns = ", ".join(INSERTED).replace("key", "`key`")
        self._insert = f"INSERT INTO {table} ({columns}) VALUES "  # noqa: S608 -- the prefix is checked
        self._values = f"({'%s, ' * 7}{now} + %s, {now}, %s, %s)"
        taken = ", ".join((*TAKEN, "enqueued_at")).format(key="`key`").replace("deliveries", "deliveries + 1")
        waiting = (
            f"SELECT {taken} FROM {table} AS m FORCE INDEX ({schema.prefix}waiting_) WHERE queue = %s AND grp = %s "  # noqa: S608
            f"AND lease_until IS NULL AND available_at <= {now}{{}} ORDER BY available_at, id LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        free = (
            f" AND (`key` IS NULL OR NOT EXISTS (SELECT 1 FROM {table} AS e WHERE e.queue = m.queue"  # noqa: S608
            " AND e.grp = m.grp AND e.key = m.key AND (e.id < m.id OR e.token IS NOT NULL)))"
        )
        self._waiting, self._keyed = waiting.format(""), waiting.format(free)
        self._lease = (
            f"UPDATE {table} SET token = %s, owner = %s, reserved_at = {now}, lease_until = {now} + %s, "  # noqa: S608
            "deliveries = deliveries + 1 WHERE id IN "
        )

    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        ids: list[int] = []
        for some in _packets(rows):
            text = self._insert + ", ".join([self._values] * len(some))
            first = conn.exec_driver_sql(text, tuple(chain.from_iterable(some))).lastrowid
            step = self._step(conn)
            ids += range(first, first + step * len(some), step)
        return ids

    def claim(self, conn: sa.Connection, queue: str, group: str, limit: int, lease: Lease, *, keyed: bool) -> list[Row]:
        found = plain(conn.exec_driver_sql(self._keyed if keyed else self._waiting, (queue, group, limit)))
        if found:
            numbers = _list(row[1] for row in found)
            conn.exec_driver_sql(f"{self._lease}{numbers}", (lease.token, lease.owner, lease.seconds))
        return found

    def delete(self, conn: sa.Connection, receipts: Sequence[Receipt]) -> set[int]:
        gone = set[int]()
        for token in sorted({token for _, token in receipts}):
            gone |= self._delete_held(conn, token, {number for number, of in receipts if of == token})
        return gone

    def _delete_held(self, conn: sa.Connection, token: int, numbers: set[int]) -> set[int]:
        held = f"{self.schema.messages.name} WHERE token = {token} AND id IN {_list(numbers)}"
        conn.exec_driver_sql("SAVEPOINT deleting")
        if conn.exec_driver_sql(f"DELETE FROM {held}").rowcount == len(numbers):  # noqa: S608 -- numbers
            return numbers
        # Some were lost, and only the rows themselves tell which; reading them takes longer than all the rest.
        conn.exec_driver_sql("ROLLBACK TO SAVEPOINT deleting")
        gone = {row[0] for row in plain(conn.exec_driver_sql(f"SELECT id FROM {held} FOR UPDATE"))}  # noqa: S608
        if gone:
            conn.exec_driver_sql(f"DELETE FROM {held}")  # noqa: S608
        return gone

    def hold(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        for queue in sorted(queues):
            self._lock(conn, queue, share=True)

    def seize(self, conn: sa.Connection, queue: str) -> None:
        self._lock(conn, queue, share=False)

    def diagnose(self, conn: sa.Connection, options: SqlOptions) -> list[Finding]:
        return diagnose_mysql(conn, options)

    def _lock(self, conn: sa.Connection, queue: str, *, share: bool) -> None:
        locks = self.schema.locks
        row = sa.select(locks.c.queue).where(locks.c.queue == queue).with_for_update(read=share)
        while conn.execute(row).first() is None:
            conn.execute(self.sql.add(locks), {"queue": queue})

    @staticmethod
    def _step(conn: sa.Connection) -> int:
        """How far apart the ids of one insert are: more than 1 on a cluster of several primaries."""
        if "penstock_step" not in conn.info:
            found = conn.exec_driver_sql("SELECT @@auto_increment_increment").scalar()
            conn.info["penstock_step"] = int(found or 1)
        step: int = conn.info["penstock_step"]
        return step


def _list(numbers: Iterator[int] | set[int]) -> str:
    return f"({','.join(map(str, sorted(numbers)))})"


def _packets(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows in portions that one statement may carry."""
    some: list[Row] = []
    size = 0
    for row in rows:
        weight = len(row[5]) + len(row[4] or "")
        if some and (len(some) == _ROWS or size + weight > _BYTES):
            yield some
            some, size = [], 0
        some.append(row)
        size += weight
    if some:
        yield some
