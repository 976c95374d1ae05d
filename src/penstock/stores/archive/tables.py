"""The two tables, as the original has them, and the statements that make them.

``<table>``: one row for each event of a job, appended, never changed. ``job_id`` is as good as unique, so its own index
serves the lookups by queue and id too; it sorts by code point everywhere, so that it finds prefixes. Moments are UTC with
milliseconds: ISO 8601 text with a ``Z`` in SQLite, as the original writes it, else timestamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

_DIALECTS = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect, "mysql": mysql.dialect}


class Moment(sa.TypeDecorator[float]):
    """Seconds since the epoch."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True, precision=3))
        if dialect.name == "mysql":
            return dialect.type_descriptor(mysql.TIMESTAMP(fsp=3))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        moment = datetime.fromtimestamp(round(value * 1000) / 1000, UTC)
        if dialect.name == "sqlite":
            return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> float | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return float((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())


class JsonText(sa.types.UserDefinedType[str]):
    """MySQL's JSON, read and written as text."""

    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "JSON"


_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite").with_variant(mysql.BIGINT(unsigned=True), "mysql")
_JOB_ID = sa.String(255).with_variant(postgresql.VARCHAR(255, collation="C"), "postgresql")
_JSON = sa.Text().with_variant(JsonText(), "mysql")


class Tables:
    """Both tables under names of one's own."""

    def __init__(self, jobs: str, logs: str) -> None:
        metadata = sa.MetaData()
        self.jobs = sa.Table(
            jobs,
            metadata,
            sa.Column("id", _ID, primary_key=True),
            sa.Column("job_id", _JOB_ID, nullable=False),
            sa.Column("queue", sa.String(255), nullable=False),
            sa.Column("status", sa.String(20), nullable=False),
            sa.Column("payload", _JSON, nullable=False),
            sa.Column("error", sa.Text),
            sa.Column("created_at", Moment, nullable=True),
            sa.Column("archived_at", Moment, nullable=True),
            sqlite_autoincrement=True,
        )
        for names in (("queue", "archived_at"), ("status", "archived_at"), ("archived_at",), ("job_id",)):
            _index(self.jobs, *names)
        self.logs = sa.Table(
            logs,
            metadata,
            sa.Column("id", _ID, primary_key=True),
            sa.Column("level", sa.String(20), nullable=False),
            sa.Column("message", sa.Text, nullable=False),
            sa.Column("worker_id", sa.String(255), nullable=False),
            sa.Column("queue", sa.String(255)),
            sa.Column("timestamp", Moment, nullable=False),
            sqlite_autoincrement=True,
        )
        for name in ("worker_id", "queue", "level", "timestamp"):
            _index(self.logs, name)

    def ensure(self, conn: sa.Connection) -> list[str]:
        """Make what is missing, indexes of tables that are there included; the names of what was made."""
        made: list[str] = []
        for table in (self.jobs, self.logs):
            found = sa.inspect(conn)
            if not found.has_table(table.name):
                table.create(conn)
                made += [table.name, *(str(index.name) for index in _indexes(table))]
                continue
            there = {each["name"] for each in found.get_indexes(table.name)}
            for index in _indexes(table):
                if index.name not in there:
                    index.create(conn)
                    made.append(str(index.name))
        return made

    def statements(self, dialect: str) -> Iterator[str]:
        """What ``ensure`` runs on an empty database."""
        for table in (self.jobs, self.logs):
            yield _text(sa.schema.CreateTable(table), dialect)
            for index in _indexes(table):
                yield _text(sa.schema.CreateIndex(index), dialect)


def _index(table: sa.Table, *names: str) -> None:
    sa.Index(f"{table.name}_{'_'.join(names)}_index", *(table.c[name] for name in names))


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _text(statement: sa.schema.ExecutableDDLElement, dialect: str) -> str:
    lines = str(statement.compile(dialect=_DIALECTS[dialect]())).strip().expandtabs(2).splitlines()
    return "\n".join(line.rstrip() for line in lines)


@lru_cache(maxsize=16)
def tables(jobs: str, logs: str) -> Tables:
    """The tables of these names; the same object each time, so that compiled statements are found again."""
    return Tables(jobs, logs)
