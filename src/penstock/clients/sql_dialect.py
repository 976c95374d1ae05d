"""What differs between the SQL databases for everybody: the clock, upserts, the lock under which tables are made.

What differs on the queue's hot path is in the driver, one file for each database.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ..clock import Clock
from ..errors import ConnectionFailed
from .sql_address import Family

Time: TypeAlias = "float | sa.ColumnElement[float]"

# Seconds since the epoch, whatever the time zone of the session
_CLOCKS = {
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) AS double precision)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6",
}
_MIGRATION_LOCK = 0x70656E73746F636B  # "penstock"


class SqlDialect:
    """One family of databases."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.clock = _CLOCKS.get(family)  # SQLite has none of its own

    def time(self, clock: Clock) -> Time:
        """Now, for use in an expression: the server's, or ``clock``'s where there is no server."""
        return clock.time() if self.clock is None else sa.literal_column(self.clock, sa.Double())

    def now(self, conn: sa.Connection, clock: Clock) -> float:
        """Now, as a number."""
        moment = self.time(clock)
        return float(conn.scalar(sa.select(moment)) or 0.0) if isinstance(moment, sa.ColumnElement) else moment

    def put(self, table: sa.Table, changing: Sequence[str]) -> sa.Insert:
        """Insert a row, or change these columns of the one that has the same primary key."""
        if self.family == "mysql":
            fresh = mysql.insert(table)
            return fresh.on_duplicate_key_update({name: fresh.inserted[name] for name in changing})
        statement = sqlite.insert(table) if self.family == "sqlite" else postgresql.insert(table)
        changed = {name: statement.excluded[name] for name in changing}
        return statement.on_conflict_do_update(index_elements=[*table.primary_key], set_=changed)

    def add(self, table: sa.Table) -> sa.Insert:
        """Insert a row, or leave the one alone that has the same primary key: then no row counts as changed.

        Waits for another transaction that is about to insert the same.
        """
        if self.family == "mysql":
            return mysql.insert(table).prefix_with("IGNORE")
        statement = sqlite.insert(table) if self.family == "sqlite" else postgresql.insert(table)
        return statement.on_conflict_do_nothing()

    def lock_tables(self, conn: sa.Connection, seconds: float) -> None:
        """Let no other process make tables until this transaction ends, or, on MySQL, ``unlock_tables``.

        Raises ``ConnectionFailed`` if another one is at it for longer than that.
        """
        if self.family == "postgresql":
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        elif self.family == "mysql" and conn.scalar(sa.select(sa.func.get_lock("penstock", seconds))) != 1:
            raise ConnectionFailed(f"another process has been making tables for {seconds:g} seconds; try again later")

    def unlock_tables(self, conn: sa.Connection) -> None:
        """The end of that where tables are made outside of transactions."""
        if self.family == "mysql":
            conn.execute(sa.select(sa.func.release_lock("penstock")))


@lru_cache(maxsize=3)
def sql_dialect(family: Family) -> SqlDialect:
    """The same object each time."""
    return SqlDialect(family)


def number_of(value: Any) -> int:
    """A count that a database may answer as a decimal, or not at all."""
    return int(value or 0)
