"""The hot path as SQL text for SQLite: insert, claim, acknowledge and extend, each a batch in a handful of statements.

Everything else is SQLAlchemy Core. A statement for many rows is one step of SQLite, during which other threads run;
``executemany`` would be a step, and a fight for the interpreter, per row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias, cast

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from ...broker import Subscription
from ...message import EMPTY, Delivery, Message, Predecessor

Receipt: TypeAlias = tuple[int, int]  # row id, fencing token
Row: TypeAlias = tuple[Any, ...]

INSERTED = (
    "id",
    "queue",
    "grp",
    "type",
    "key",
    "headers",
    "payload",
    "attempts",
    "available_at",
    "created_at",
    "enqueued_at",
    "mid",
)
# A few sizes, so that each is compiled once.
_CHUNKS = (80, 8, 1)
_UNBOUNDED = 2**31

_headers = msgspec.json.Decoder(dict[str, Any])


class Rows:
    """The hot statements over one ``messages`` table and its ``streams``."""

    def __init__(self, table: str, streams: str) -> None:
        self.table = table
        self._groups = f"SELECT grp FROM {streams} WHERE queue = ? ORDER BY grp"  # noqa: S608
        values = f"({','.join('?' * len(INSERTED))})"
        insert = f"INSERT INTO {table} ({', '.join(INSERTED)}) VALUES "  # noqa: S608 -- the prefix is checked
        self._insert = {size: insert + ", ".join([values] * size) for size in _CHUNKS}
        take = (
            f"UPDATE {table} SET token = ?, owner = ?, reserved_at = ?, lease_until = ?, deliveries = deliveries + 1 "  # noqa: S608
            "WHERE id IN ({}) RETURNING available_at, id, coalesce(mid, id), type, key, headers, "
            "CAST(payload AS BLOB), attempts, deliveries, enqueued_at"
        )
        self.waiting = (
            f"SELECT id FROM {table} WHERE queue = ? AND grp = ? AND token IS NULL AND available_at <= ? "  # noqa: S608
            "ORDER BY available_at, id LIMIT ?"
        )
        self.lapsed = (
            f"SELECT id FROM {table} WHERE queue = ? AND grp = ? AND token IS NOT NULL AND lease_until <= ? "  # noqa: S608
            "AND deliveries > ? AND deliveries < ? ORDER BY lease_until LIMIT ?"
        )
        self._owners = self.lapsed.replace("SELECT id", "SELECT id, owner, lease_until", 1)
        self._claim, self._reclaim = take.format(self.waiting), take.format(self.lapsed)
        self._next = f"SELECT min(available_at) FROM {table} WHERE queue = ? AND grp = ? AND token IS NULL"  # noqa: S608
        held = "token = ? AND id IN (SELECT value FROM json_each(?))"
        self._delete = f"DELETE FROM {table} WHERE {held}"  # noqa: S608
        self._extend = f"UPDATE {table} SET lease_until = ? WHERE {held}"  # noqa: S608
        self._held = f"SELECT id FROM {table} WHERE {held}"  # noqa: S608

    def allocate(self, conn: sa.Connection) -> int:
        """The first free id. It stays free for this transaction, which alone may write."""
        found = conn.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (self.table,)).scalar()
        return int(found or 0) + 1

    def groups(self, conn: sa.Connection, queue: str) -> list[str]:
        """The groups of a queue; ``['']`` if it only has a backlog, nothing if it is unknown."""
        return [row[0] for row in conn.exec_driver_sql(self._groups, (queue,)).all()]

    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> None:
        """Insert rows of ``INSERTED`` columns."""
        at = 0
        for size in _CHUNKS:
            while len(rows) - at >= size:
                conn.exec_driver_sql(self._insert[size], tuple(chain.from_iterable(rows[at : at + size])))
                at += size

    def claim(
        self, conn: sa.Connection, subscription: Subscription, limit: int, *, token: int, owner: str, now: float
    ) -> list[Delivery[Receipt]]:
        """Lease what is due, oldest first."""
        lease = (token, owner, now, now + subscription.lease)
        found = conn.exec_driver_sql(self._claim, (*lease, subscription.source, subscription.group, now, limit))
        return _deliveries(subscription, found, token)

    def reclaim(
        self,
        conn: sa.Connection,
        subscription: Subscription,
        limit: int,
        *,
        bounds: tuple[int, int | None],
        token: int,
        owner: str,
        now: float,
    ) -> list[Delivery[Receipt]]:
        """Lease anew what somebody else's lease no longer covers."""
        above, below = bounds
        lease = (token, owner, now, now + subscription.lease)
        which = (subscription.source, subscription.group, now, above, _UNBOUNDED if below is None else below, limit)
        last = {
            number: Predecessor(last_owner, now - until + subscription.lease)
            for number, last_owner, until in _plain(conn.exec_driver_sql(self._owners, which))
        }
        found = _deliveries(subscription, conn.exec_driver_sql(self._reclaim, (*lease, *which)), token)
        return [replace(delivery, predecessor=last.get(delivery.receipt[0])) for delivery in found]

    def next_due(self, conn: sa.Connection, subscription: Subscription) -> float | None:
        """When the oldest waiting message is or was due."""
        due = conn.exec_driver_sql(self._next, (subscription.source, subscription.group)).scalar()
        return None if due is None else float(due)

    def any_lapsed(self, conn: sa.Connection, subscription: Subscription, now: float) -> bool:
        """Whether it is worth becoming a writer."""
        which = (subscription.source, subscription.group, now, 0, _UNBOUNDED, 1)
        return conn.exec_driver_sql(self.lapsed, which).first() is not None

    def delete(self, conn: sa.Connection, token: int, ids: Sequence[int]) -> set[int]:
        """Delete rows that are held with ``token``; return the ids of those that were."""
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

    def extend(self, conn: sa.Connection, token: int, ids: Sequence[int], until: float) -> set[int]:
        """Move the end of the leases; return the ids of those that are still held."""
        args = (token, str(list(ids)))
        if conn.exec_driver_sql(self._extend, (until, *args)).rowcount == len(ids):
            return set(ids)
        return {int(row[0]) for row in conn.exec_driver_sql(self._held, args).all()}


def _deliveries(subscription: Subscription, result: sa.CursorResult[Any], token: int) -> list[Delivery[Receipt]]:
    found = _plain(result)
    found.sort()  # RETURNING promises no order; the first two columns are the order of the queue
    return [_delivery(subscription, row, token) for row in found]


def _plain(result: sa.CursorResult[Any]) -> list[Row]:
    """The client's own tuples: making SQLAlchemy's rows of them takes as long as reading them."""
    cursor = cast("sqlite3.Cursor", result.cursor)
    found: list[Row] = cursor.fetchall()
    result.close()
    return found


def _delivery(subscription: Subscription, row: Row, token: int) -> Delivery[Receipt]:
    _, number, mid, type_, key, text, body, attempt, count, enqueued_at = row
    headers, defect = (EMPTY, None) if text is None else read_headers(text)
    message = Message(
        id=str(mid), type=type_, body=body, key=key, attempt=attempt, enqueued_at=enqueued_at, headers=headers
    )
    return Delivery(
        message=message,
        source=subscription.source,
        group=subscription.group,
        receipt=(number, token),
        count=count,
        defect=defect,
    )


def read_headers(text: Any) -> tuple[Any, str | None]:
    """Headers and what is wrong with them. Somebody else may write into our tables."""
    try:
        return _headers.decode(text), None
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as wrong:
        return EMPTY, f"the column headers holds no JSON object: {wrong}"


@lru_cache(maxsize=16)
def rows(table: str, streams: str) -> Rows:
    """The hot statements over these tables; the same object each time."""
    return Rows(table, streams)
