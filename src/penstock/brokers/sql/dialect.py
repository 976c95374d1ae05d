"""What the driver asks of a database, one step of a transaction each; a file beside this one for each database.

The hot path (insert, claim, delete) is SQL text there; the rest is SQLAlchemy Core here and the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, ClassVar

import sqlalchemy as sa
from msgspec.structs import replace

from ...broker import Finding, Subscription
from ...clients.sql import SqlOptions
from ...clients.sql_address import Family
from ...clients.sql_dialect import SqlDialect, Time, sql_dialect
from ...clients.sql_schema import LONGEST_NAME, Schema
from ...clock import Clock
from ...message import Delivery, Predecessor
from .rows import Lease, Receipt, Row, deliveries

_MANY = 1000  # values of one IN
_UNBOUNDED = 2**31 - 1


class Dialect(ABC):
    """One database's way. ``single_claim``: a claim, and a deletion, is one statement.

    ``longest_name``: characters of a queue, group, type or key, where the database counts them.
    """

    family: ClassVar[Family]
    driver: ClassVar[str]
    max_body: ClassVar[int]
    single_claim: ClassVar[bool] = False
    longest_name: ClassVar[int | None] = LONGEST_NAME

    def __init__(self, schema: Schema, clock: Clock) -> None:
        self.schema, self._clock = schema, clock
        self.sql: SqlDialect = sql_dialect(self.family)
        streams = schema.streams
        self._groups = sa.select(streams.c.grp).where(streams.c.queue == sa.bindparam("name")).order_by(streams.c.grp)

    @abstractmethod
    def insert(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        """Insert rows of ``GIVEN`` columns; their ids, in order. The connection is one of this family's driver."""

    @abstractmethod
    def claim(self, conn: sa.Connection, queue: str, group: str, limit: int, lease: Lease, *, keyed: bool) -> list[Row]:
        """Lease what is due, oldest first; ``keyed``: of each key the first, if nobody has one of it."""

    @abstractmethod
    def delete(self, conn: sa.Connection, receipts: Sequence[Receipt]) -> set[int]:
        """Delete the rows that are still held so; the ids of those that were."""

    @abstractmethod
    def hold(self, conn: sa.Connection, queues: Sequence[str]) -> None:
        """Let no group join these queues until this transaction has ended. Any number of publishers may."""

    @abstractmethod
    def seize(self, conn: sa.Connection, queue: str) -> None:
        """Let nobody publish to this queue or join it until this transaction has ended."""

    @abstractmethod
    def diagnose(self, conn: sa.Connection, options: SqlOptions) -> list[Finding]:
        """Settings under which the guarantees do not hold."""

    def announce(self, conn: sa.Connection, queues: Sequence[str]) -> None:  # noqa: B027 -- most have nothing to do
        """Wake up other processes when this transaction is committed, where there is a way."""

    def time(self) -> Time:
        """Now, in an expression."""
        return self.sql.time(self._clock)

    def now(self, conn: sa.Connection) -> float:
        """Now, as a number."""
        return self.sql.now(conn, self._clock)

    def insert_by_any_driver(self, conn: sa.Connection, rows: Sequence[Row]) -> list[int]:
        """The same over somebody else's connection, whatever client library that is of."""
        if conn.dialect.driver == self.driver:
            return self.insert(conn, rows)
        table, now = self.schema.messages, self.now(conn)
        columns = ("queue", "grp", "type", "key", "headers", "payload", "attempts")
        values = [
            {**dict(zip(columns, row, strict=False)), "available_at": now + row[7], "created_at": now}
            | {"enqueued_at": row[8], "mid": row[9]}
            for row in rows
        ]
        if conn.dialect.insert_executemany_returning_sort_by_parameter_order:
            statement = table.insert().returning(table.c.id, sort_by_parameter_order=True)
            return [int(i) for i in conn.scalars(statement, values)]
        return [int((conn.execute(table.insert(), row).inserted_primary_key or (0,))[0]) for row in values]

    def groups(self, conn: sa.Connection, queue: str) -> list[str]:
        """The groups of a queue; ``['']`` if it only has a backlog, nothing if it is unknown."""
        return list(conn.scalars(self._groups, {"name": queue}))

    def turn(self, conn: sa.Connection, queue: str, group: str) -> None:
        """Wait for whoever claims for this group at the moment: two at once might take two of the same key."""
        streams = self.schema.streams
        row = sa.select(streams.c.grp).where(streams.c.queue == queue, streams.c.grp == group)
        conn.execute(row.with_for_update()).all()

    def look(self, conn: sa.Connection, queues: Sequence[str], group: str) -> tuple[bool, float | None]:
        """Whether the group has joined all of them, and the seconds until the oldest waiting message is due."""
        table, streams = self.schema.messages, self.schema.streams
        waiting = [
            sa.select(sa.func.min(table.c.available_at).label("due")).where(
                table.c.queue == queue, table.c.grp == group, table.c.token.is_(None), table.c.lease_until.is_(None)
            )
            for queue in queues
        ]
        due = sa.union_all(*waiting).subquery()
        joined = sa.select(sa.func.count()).where(streams.c.queue.in_(queues), streams.c.grp == group).scalar_subquery()
        count, seconds = conn.execute(sa.select(joined, sa.func.min(due.c.due) - self.time())).one()
        return int(count) == len(set(queues)), None if seconds is None else float(seconds)

    def any_lapsed(self, conn: sa.Connection, queues: Sequence[str], group: str) -> bool:
        """Whether it is worth becoming a writer."""
        return conn.execute(self.lapsed(queues, group, (0, None), 1)).first() is not None

    def lapsed(
        self, queues: Sequence[str], group: str, bounds: tuple[int, int | None], limit: int
    ) -> sa.Select[*tuple[Any, ...]]:
        """Rows whose lease is over, with what was known of it."""
        table, (above, below) = self.schema.messages, bounds
        return (
            sa.select(table.c.id, table.c.queue, table.c.owner, table.c.lease_until, self._moment().label("now"))
            .where(
                table.c.queue == queues[0] if len(queues) == 1 else table.c.queue.in_(queues),
                table.c.grp == group,
                table.c.token.is_not(None),
                table.c.lease_until <= self.time(),
                table.c.deliveries > above,
                table.c.deliveries < (_UNBOUNDED if below is None else below),
            )
            .order_by(table.c.lease_until)
            .limit(limit)
        )

    def reclaim(
        self,
        conn: sa.Connection,
        subscription: Subscription,
        limit: int,
        *,
        bounds: tuple[int, int | None],
        lease: Lease,
    ) -> list[Delivery[Receipt]]:
        """Lease anew what somebody else's lease no longer covers."""
        table, group = self.schema.messages, subscription.group
        queues = subscription.queues or (subscription.source,)
        locked = self.lapsed(queues, group, bounds, limit).with_for_update(skip_locked=True)
        last = {row.id: row for row in conn.execute(locked)}
        if not last:
            return []
        chosen = table.c.id.in_(list(last))
        leased = {"token": lease.token, "owner": lease.owner, "deliveries": table.c.deliveries + 1}
        times = {"reserved_at": self.time(), "lease_until": self.time() + lease.seconds}
        conn.execute(table.update().where(chosen).values(**leased, **times))
        names = ("type", "key", "headers", "payload", "attempts", "deliveries", "enqueued_at")
        mid = sa.func.coalesce(table.c.mid, table.c.id)
        rows = conn.execute(sa.select(table.c.lease_until, table.c.id, mid, *(table.c[n] for n in names)).where(chosen))
        found: list[Delivery[Receipt]] = []
        for row in sorted((tuple[Any, ...](row) for row in rows), key=itemgetter(1)):
            before = last[row[1]]
            silent = before.now - before.lease_until + subscription.lease
            (delivery,) = deliveries(before.queue, group, lease.token, [row])
            found.append(replace(delivery, predecessor=Predecessor(before.owner, silent)))
        return found

    def extend(self, conn: sa.Connection, receipts: Sequence[Receipt], seconds: float) -> set[Receipt]:
        """Move the end of the leases; those that are still held.

        A row that a handler is deleting in a transaction of its own is passed over: waiting for it would let all the
        other leases lapse, and nobody can take it meanwhile.
        """
        table, held = self.schema.messages, self.held(conn, receipts, skip=True)
        numbers = sorted(number for number, _ in held)
        for start in range(0, len(numbers), _MANY):
            chosen = table.c.id.in_(numbers[start : start + _MANY])
            conn.execute(table.update().where(chosen).values(lease_until=self.time() + seconds))
        if len(held) < len(receipts):
            held |= self.held(conn, [r for r in receipts if r not in held], lock=False)
        return held

    def held(
        self, conn: sa.Connection, receipts: Sequence[Receipt], *, skip: bool = False, lock: bool = True
    ) -> set[Receipt]:
        """Those that still hold their rows, which are locked. ``skip``: but for what somebody else has locked."""
        table, found = self.schema.messages, set[Receipt]()
        wanted = sorted(set(receipts))
        for start in range(0, len(wanted), _MANY):
            some = wanted[start : start + _MANY]
            tokens = {token for _, token in some}
            query = sa.select(table.c.id, table.c.token).where(
                table.c.id.in_([number for number, _ in some]), table.c.token.in_(tokens)
            )
            if lock:
                query = query.order_by(table.c.id).with_for_update(skip_locked=skip)
            found |= {(row.id, row.token) for row in conn.execute(query)}
        return found.intersection(wanted)

    def _moment(self) -> sa.ColumnElement[float]:
        moment = self.time()
        return moment if isinstance(moment, sa.ColumnElement) else sa.literal(moment, sa.Double())
