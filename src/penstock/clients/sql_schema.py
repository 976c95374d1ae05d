"""The tables, and the version that a database carries so that a program meets only tables it understands.

``messages`` holds what waits and what is leased: one row for each group that has yet to finish with a message, and one
in the group ``''`` while nobody has subscribed. Its columns ``id queue payload attempts reserved_at available_at
created_at`` are those of the common ``jobs`` table; times are seconds since the epoch. ``token`` is the fencing token of
the fetch that leased the row, null while it waits; ``mid`` is the message's id where that is not the row's own.
``streams`` lists the groups of each queue (``''`` until there is one). ``dead``, ``once``, ``workers``, ``paused`` and
``keys`` and ``cells`` (of the store: what is done, and small values) are small and cold. ``locks`` has a row for each queue, on MySQL, which locks nothing but rows.

``bindings`` says which groups want what which pattern matches.

Version 2 added the index ``keyed`` and the table ``cells``, and made ``keys`` part of the schema; version 3 ``bindings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import ConfigurationError
from .sql_address import Family
from .sql_dialect import sql_dialect

VERSION = 3
_PATIENCE = 60.0  # seconds that one process waits while another makes the tables
_SINCE = {"keyed": 2}  # indexes that younger versions added to a table that was there

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers only INTEGER keys by itself
_BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")
_TEXT = sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
_MYSQL: Mapping[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_row_format": "DYNAMIC"}
# Rows come and go all the time: dead ones are swept early, and pages keep room for the lease that is written into a row
_STORAGE = (
    "ALTER TABLE {} SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,"
    " autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1)"
)


class Name(sa.String):
    """Text that is compared byte by byte, trailing blanks included."""


@compiles(Name, "mysql")
def _exact(name: Name, compiler: sa.sql.compiler.DDLCompiler, **_: object) -> str:
    collation = "utf8mb4_nopad_bin" if getattr(compiler.dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
    return f"VARCHAR({name.length}) CHARACTER SET utf8mb4 COLLATE {collation}"


LONGEST_NAME = 255
_NAME = Name(LONGEST_NAME)


class Schema:
    """One set of tables, all named with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = sa.MetaData()
        self.version = self._table("schema", sa.Column("version", sa.Integer, nullable=False))
        self.messages = self._messages()
        self.streams = self._table(
            "streams",
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("grp", _NAME, primary_key=True),
            sqlite_with_rowid=False,
        )
        self.dead = self._dead()
        self.once = self._table(
            "once",
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("type", _NAME, primary_key=True),
            sa.Column("key", _NAME, primary_key=True),
            sa.Column("mid", sa.BigInteger, nullable=False),
            sa.Column("expires_at", sa.Double, nullable=False, index=True),
        )
        self.workers = self._table(
            "workers",
            sa.Column("identity", _NAME, primary_key=True),
            sa.Column("presence", _BYTES, nullable=False),
            sa.Column("expires_at", sa.Double, nullable=False),
        )
        self.paused = self._table(
            "paused",
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("paused_at", sa.Double, nullable=False),
        )
        self.bindings = self._bindings()
        self.keys = self._table(
            "keys",
            sa.Column("key", Name(512), primary_key=True),
            sa.Column("owner", _TEXT, nullable=False),
            sa.Column("done", sa.Boolean, nullable=False),
            sa.Column("expires_at", sa.Double, nullable=False, index=True),
        )
        self.cells = self._cells()
        self.locks = self._table("locks", sa.Column("queue", _NAME, primary_key=True), info={"dialects": ("mysql",)})

    def ensure(self, conn: sa.Connection) -> None:
        """Make what is missing, change what is older. Raises ``ConfigurationError`` if a newer release was here."""
        if self.plan(conn):
            self.migrate(conn)

    def migrate(self, conn: sa.Connection) -> list[str]:
        """The same, alone; return the statements that it took."""
        dialect = sql_dialect(cast("Family", conn.dialect.name))
        dialect.lock_tables(conn, _PATIENCE)
        try:
            statements = self.plan(conn)
            for statement in statements:
                conn.execute(statement)
        finally:
            dialect.unlock_tables(conn)
        return [sql(conn, statement) for statement in statements]

    def check(self, conn: sa.Connection) -> None:
        """Raise ``ConfigurationError`` unless everything is there and of this version."""
        if self.plan(conn):
            raise ConfigurationError(
                f"the tables {self.prefix}* are missing or older than this release of penstock; run `penstock migrate`"
                " (--dry-run prints its SQL), or open the broker with create=true"
            )

    def plan(self, conn: sa.Connection) -> list[sa.Executable]:
        """The statements that are wanting, in order; none if the tables are as this release knows them."""
        there = {name.lower() for name in sa.inspect(conn).get_table_names()}
        found = conn.scalar(sa.select(self.version.c.version)) if self.version.name.lower() in there else None
        if found is not None and found > VERSION:
            raise ConfigurationError(
                f"the tables {self.prefix}* have schema version {found}, this release of penstock knows {VERSION}: "
                "run the release that made them, or choose another prefix"
            )
        statements: list[sa.Executable] = []
        for table in self.metadata.sorted_tables:
            if _wanted(table, conn):
                new = table.name.lower() not in there
                statements += [CreateTable(table)] if new else []
                statements += self._indexes(table, 0 if new else found or 0, conn, new=new)
                if new and table is self.messages and conn.dialect.name == "postgresql":
                    statements.append(sa.text(_STORAGE.format(table.name)))
        if found != VERSION:
            change = self.version.insert() if found is None else self.version.update()
            statements.append(change.values(version=sa.literal_column(str(VERSION))))
        return statements

    def _indexes(self, table: sa.Table, found: int, conn: sa.Connection, *, new: bool) -> list[sa.Executable]:
        """What of its indexes is wanting where its version is ``found``.

        Those that are there are left: on MySQL, where each statement is by itself, a run that was killed has made some.
        """
        missing = [
            index
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if _SINCE.get(str(index.name).removeprefix(self.prefix), 1) > found and _wanted(index, conn)
        ]
        if missing and not new:
            there = {each["name"] for each in sa.inspect(conn).get_indexes(table.name)}
            missing = [index for index in missing if index.name not in there]
        return [CreateIndex(index) for index in missing]

    def _table(self, name: str, *columns: sa.Column[Any], **options: Any) -> sa.Table:
        return sa.Table(f"{self.prefix}{name}", self.metadata, *columns, **{**_MYSQL, **options})

    def _messages(self) -> sa.Table:
        table = self._table(
            "messages",
            sa.Column("id", _ID, primary_key=True),
            sa.Column("queue", _NAME, nullable=False),
            sa.Column("grp", _NAME, nullable=False, server_default=""),
            sa.Column("type", _NAME, nullable=False, server_default=""),
            sa.Column("key", _NAME),
            sa.Column("headers", _TEXT),
            sa.Column("payload", _BYTES, nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
            sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
            sa.Column("available_at", sa.Double, nullable=False),
            sa.Column("created_at", sa.Double, nullable=False),
            sa.Column("enqueued_at", sa.Double),
            sa.Column("token", sa.BigInteger),
            sa.Column("owner", _NAME),
            sa.Column("reserved_at", sa.Double),
            sa.Column("lease_until", sa.Double),
            sa.Column("mid", _ID),
            sqlite_autoincrement=True,  # an id is never used twice, however empty the table was meanwhile
        )
        self._index("waiting", table, ("queue", "grp", "available_at", "id"), table.c.token.is_(None))
        self._index("leased", table, ("queue", "grp", "lease_until"), table.c.token.is_not(None))
        self._index("keyed", table, ("queue", "grp", "key", "id"), table.c.key.is_not(None))
        return table

    def _bindings(self) -> sa.Table:
        return self._table(
            "bindings",
            sa.Column("pattern", _NAME, primary_key=True),
            sa.Column("grp", _NAME, primary_key=True),
            sqlite_with_rowid=False,
        )

    def _cells(self) -> sa.Table:
        return self._table(
            "cells",
            sa.Column("place", _NAME, primary_key=True),
            sa.Column("key", _NAME, primary_key=True),
            sa.Column("value", _BYTES),
            sa.Column("expires_at", sa.Double, index=True),
        )

    def _dead(self) -> sa.Table:
        table = self._table(
            "dead",
            sa.Column("id", _ID, primary_key=True),
            sa.Column("mid", _ID, nullable=False),
            sa.Column("queue", _NAME, nullable=False),
            sa.Column("grp", _NAME, nullable=False),
            sa.Column("type", _NAME, nullable=False),
            sa.Column("key", _NAME),
            sa.Column("headers", _TEXT),
            sa.Column("payload", _BYTES, nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False),
            sa.Column("deliveries", sa.Integer, nullable=False),
            sa.Column("enqueued_at", sa.Double),
            sa.Column("reason", _TEXT, nullable=False),
            sa.Column("error", _TEXT),
            sa.Column("traceback", _TEXT),
            sa.Column("meta", _TEXT),
            sa.Column("owner", _TEXT, nullable=False),
            sa.Column("died_at", sa.Double, nullable=False),
            sa.Column("raw", _BYTES),
            sqlite_autoincrement=True,
        )
        sa.Index(f"{self.prefix}dead_queue", table.c.queue, table.c.id)
        return table

    def _index(self, name: str, table: sa.Table, columns: tuple[str, ...], where: sa.ColumnElement[bool]) -> None:
        """An index that holds only the rows it is asked for: a claim walks over no delayed and no leased row.

        MySQL knows no such index. There one serves both: what waits has no end of its lease, what is leased has one.
        """
        partial: dict[str, Any] = {"sqlite_where": where, "postgresql_where": where}
        own = [table.c[column] for column in columns]
        sa.Index(f"{self.prefix}{name}", *own, info={"dialects": ("sqlite", "postgresql")}, **partial)
        if name == "waiting":
            own = [table.c[column] for column in ("queue", "grp", "lease_until", "available_at")]
        if name != "leased":
            sa.Index(f"{self.prefix}{name}_", *own, info={"dialects": ("mysql",)})


def _wanted(item: sa.Table | sa.Index, conn: sa.Connection) -> bool:
    """Whether this database is to have it."""
    dialects: tuple[str, ...] | None = item.info.get("dialects")
    return dialects is None or conn.dialect.name in dialects


def sql(conn: sa.Connection, statement: sa.Executable) -> str:
    """A statement of the plan as text, for people to read and run."""
    compiled = cast("sa.ClauseElement", statement).compile(dialect=conn.dialect)
    return f"{str(compiled).strip()};"


@lru_cache(maxsize=16)
def schema(prefix: str) -> Schema:
    """The tables with this prefix; the same object each time, so that compiled statements are found again."""
    return Schema(prefix)
