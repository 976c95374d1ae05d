"""The questions that an archive answers, as statements. Newest first, always.

Text that is looked for is text: ``%`` and ``_`` in it mean themselves. What a job's id begins with is found by the index;
a payload's text is looked for row by row, newest first, until there are enough.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from .rows import ArchivedJob, LogLine, archived, logged
from .tables import Tables

_ESCAPE = "!"
_LAST = "\U0010ffff"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows. ``start`` and ``end``: seconds since the epoch, both included. ``text``: see ``where``."""

    queue: str | None = None
    status: str | None = None
    job_id: str | None = None
    start: float | None = None
    end: float | None = None
    text: str | None = None
    ids_only: bool = False


class LogsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines."""

    level: str | None = None
    worker_id: str | None = None
    queue: str | None = None
    search: str | None = None
    start: float | None = None
    end: float | None = None


def find(conn: sa.Connection, tables: Tables, queue: str, job_id: str) -> ArchivedJob | None:
    """The last word about a job: an end is later than its beginning, whatever two machines' clocks say."""
    jobs = tables.jobs
    statement = sa.select(jobs).where(jobs.c.job_id == job_id, jobs.c.queue == queue)
    begun = sa.case((jobs.c.status == "waiting", 1), else_=0)
    row = (
        conn.execute(statement.order_by(begun, jobs.c.archived_at.desc(), jobs.c.id.desc()).limit(1)).mappings().first()
    )
    return None if row is None else archived(row)


def listed(conn: sa.Connection, tables: Tables, wanted: Wanted, limit: int, offset: int) -> list[ArchivedJob]:
    """A page of rows."""
    jobs = tables.jobs
    statement = sa.select(jobs).where(*_conditions(conn, jobs, wanted))
    statement = statement.order_by(jobs.c.archived_at.desc(), jobs.c.id.desc()).limit(limit).offset(offset)
    return [archived(row) for row in conn.execute(statement).mappings()]


def count(conn: sa.Connection, tables: Tables, wanted: Wanted) -> int:
    """How many rows."""
    jobs = tables.jobs
    statement = sa.select(sa.func.count()).select_from(jobs).where(*_conditions(conn, jobs, wanted))
    return int(conn.scalar(statement) or 0)


def list_logs(conn: sa.Connection, tables: Tables, wanted: LogsWanted, limit: int, offset: int) -> list[LogLine]:
    """A page of lines."""
    logs = tables.logs
    statement = sa.select(logs).where(*_log_conditions(logs, wanted))
    statement = statement.order_by(logs.c.timestamp.desc(), logs.c.id.desc()).limit(limit).offset(offset)
    return [logged(row) for row in conn.execute(statement).mappings()]


def count_logs(conn: sa.Connection, tables: Tables, wanted: LogsWanted) -> int:
    """How many lines."""
    logs = tables.logs
    statement = sa.select(sa.func.count()).select_from(logs).where(*_log_conditions(logs, wanted))
    return int(conn.scalar(statement) or 0)


def delete_older(conn: sa.Connection, table: sa.Table, moment: sa.Column[Any], before: float, most: int) -> int:
    """Delete the oldest rows, ``most`` at once: no lock lasts, and no dialect needs a DELETE with a limit."""
    chosen = sa.select(table.c.id).where(moment < before).order_by(moment).limit(most)
    ids = list(conn.scalars(chosen))
    if not ids:
        return 0
    return conn.execute(table.delete().where(table.c.id.in_(ids))).rowcount


def _conditions(conn: sa.Connection, jobs: sa.Table, wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    column = jobs.c
    exact = (("queue", wanted.queue), ("status", wanted.status), ("job_id", wanted.job_id))
    found = [column[name] == value for name, value in exact if value is not None]
    found += _between(column.archived_at, wanted.start, wanted.end)
    if wanted.text is not None:
        beginning = _begins(conn, column.job_id, wanted.text)
        within = (column.payload, column.error)
        found.append(
            beginning if wanted.ids_only else sa.or_(beginning, *(_holds(each, wanted.text) for each in within))
        )
    return found


def _log_conditions(logs: sa.Table, wanted: LogsWanted) -> list[sa.ColumnElement[bool]]:
    column = logs.c
    exact = (("level", wanted.level), ("worker_id", wanted.worker_id), ("queue", wanted.queue))
    found = [column[name] == value for name, value in exact if value is not None]
    found += _between(column.timestamp, wanted.start, wanted.end)
    if wanted.search is not None:
        found.append(_holds(column.message, wanted.search))
    return found


def _between(column: sa.Column[Any], start: float | None, end: float | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if start is not None:
        found.append(column >= start)
    if end is not None:
        found.append(column <= end)
    return found


def _begins(conn: sa.Connection, column: sa.Column[Any], text: str) -> sa.ColumnElement[bool]:
    """By the index: SQLite's LIKE has none, MySQL's collation has no last character."""
    if conn.dialect.name == "mysql":
        return column.like(f"{_escaped(text)}%", escape=_ESCAPE)
    return sa.and_(column >= text, column < f"{text}{_LAST}")


def _holds(column: sa.Column[Any], text: str) -> sa.ColumnElement[bool]:
    # As text: MySQL's JSON would be compared as a document
    return sa.cast(column, sa.Text).like(f"%{_escaped(text)}%", escape=_ESCAPE)


def _escaped(text: str) -> str:
    for sign in (_ESCAPE, "%", "_"):
        text = text.replace(sign, f"{_ESCAPE}{sign}")
    return text
