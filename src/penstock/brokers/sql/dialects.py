"""Which dialect a family of databases has. Its file is imported when it is asked for."""

from __future__ import annotations

from ...clients.sql_address import Family
from ...clients.sql_schema import Schema
from ...clock import Clock
from .dialect import Dialect


def dialect_for(family: Family, schema: Schema, clock: Clock) -> Dialect:
    """A dialect over these tables."""
    if family == "postgresql":
        from .postgresql import PostgresDialect

        return PostgresDialect(schema, clock)
    if family == "mysql":
        from .mysql import MySQLDialect

        return MySQLDialect(schema, clock)
    from .sqlite import SqliteDialect

    return SqliteDialect(schema, clock)
