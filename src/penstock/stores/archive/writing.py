"""The transaction that writes a batch of events and lines, safe to repeat.

A batch whose last try ended in doubt is held against the table first: what arrived then is not written again. The same
goes for messages that were sent ``once``, of which a second sending is no event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import exc

from ...clients.sql_server import sqlstate
from ...errors import BrokerError
from .rows import Entry, LogLine, event_of, job_row, log_row
from .tables import Tables

Item: TypeAlias = Entry | LogLine

_AT_ONCE = 200  # values in one IN list
_SLACK = 1.0  # seconds: the original's MySQL columns know no milliseconds
# MySQL's numbers for values that a column does not take
_REFUSED = frozenset({1048, 1153, 1264, 1265, 1292, 1301, 1366, 1406, 3140, 3819, 4025})
_NO_TABLE = ("no such table", "does not exist", "doesn't exist")


def write(conn: sa.Connection, tables: Tables, items: Sequence[Item], *, doubtful: bool) -> None:
    """Write what is not there yet."""
    entries = [item for item in items if isinstance(item, Entry)]
    lines = [item for item in items if isinstance(item, LogLine)]
    if doubtful:
        entries = _unwritten(conn, tables, entries)
        lines = _unlogged(conn, tables, lines)
    entries = _first_sendings(conn, tables, entries)
    if entries:
        conn.execute(tables.jobs.insert(), [job_row(entry) for entry in entries])
    if lines:
        conn.execute(tables.logs.insert(), [log_row(line) for line in lines])


def is_refusal(error: BrokerError) -> bool:
    """Whether the database will never take these values, as opposed to: not now."""
    cause = error.__cause__
    if isinstance(cause, exc.DataError | exc.IntegrityError):
        return True
    original = getattr(cause, "orig", None)
    if original is None:
        return False
    number = original.args[0] if original.args else 0
    return sqlstate(original).startswith(("22", "23")) or (isinstance(number, int) and number in _REFUSED)


def explained(error: BrokerError, table: str) -> BrokerError:
    """With what to do about it, if the tables are not there."""
    if not any(sign in str(error) for sign in _NO_TABLE):
        return error
    return BrokerError(f"there is no table {table} ({error}); run `penstock archive setup`, or await archive.setup()")


def _unwritten(conn: sa.Connection, tables: Tables, entries: Sequence[Entry]) -> list[Entry]:
    jobs, there = tables.jobs.c, set[str | None]()
    if not entries:
        return []
    since = min(entry.at for entry in entries) - _SLACK
    for ids in _pages([job_row(entry)["job_id"] for entry in entries]):
        rows = conn.scalars(sa.select(jobs.payload).where(jobs.job_id.in_(ids), jobs.archived_at >= since))
        there.update(event_of(payload) for payload in rows)
    return [entry for entry in entries if entry.event not in there]


def _first_sendings(conn: sa.Connection, tables: Tables, entries: list[Entry]) -> list[Entry]:
    sent = [entry for entry in entries if entry.once]
    if not sent:
        return entries
    jobs, there = tables.jobs.c, set[tuple[str, str]]()
    for ids in _pages([job_row(entry)["job_id"] for entry in sent]):
        told = sa.select(jobs.queue, jobs.job_id).where(jobs.job_id.in_(ids), jobs.status == "waiting")
        there.update((row.queue, row.job_id) for row in conn.execute(told))
    kept: list[Entry] = []
    for entry in entries:
        name = (entry.queue, entry.job_id)
        if not entry.once or name not in there:
            kept.append(entry)
        if entry.once:
            there.add(name)
    return kept


def _unlogged(conn: sa.Connection, tables: Tables, lines: Sequence[LogLine]) -> list[LogLine]:
    if not lines:
        return []
    logs = tables.logs.c
    first, last = min(line.timestamp for line in lines), max(line.timestamp for line in lines)
    moment = logs.timestamp.between(first - _SLACK, last + _SLACK)
    workers = logs.worker_id.in_(sorted({log_row(line)["worker_id"] for line in lines}))
    columns = (logs.level, logs.message, logs.worker_id, logs.queue, logs.timestamp)
    found = conn.execute(sa.select(*columns).where(moment, workers))
    there = Counter(map(_same, found.mappings()))
    kept: list[LogLine] = []
    for line in lines:
        name = _same(log_row(line))
        if there[name]:
            there[name] -= 1
        else:
            kept.append(line)
    return kept


def _same(row: Any) -> tuple[Any, ...]:
    return (row["level"], row["message"], row["worker_id"], row["queue"], round(row["timestamp"] * 1000))


def _pages(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
