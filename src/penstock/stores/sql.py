"""Keys that have been done, in a table of their own: the ``Store`` for programs that live on a SQL database.

A row is a reservation while ``done`` is false; then ``owner`` is the fencing token. An expired row is as good as none.
"""

from __future__ import annotations

from typing import Any

from ..clients.sql import Runner, SqliteRunner, SqlOptions
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import MissingExtra
from ..store import Claim

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects.sqlite import insert as upsert
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

_SWEEP = 100  # expired keys that one reservation sweeps away


class SqlStore:
    """A ``Store`` and an ``IdempotencyCache`` in one table, which is made when it is missing."""

    def __init__(self, options: SqlOptions, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._metadata = sa.MetaData()
        self._table = sa.Table(
            f"{options.prefix}keys",
            self._metadata,
            sa.Column("key", sa.String(512), primary_key=True),
            sa.Column("owner", sa.Text, nullable=False),
            sa.Column("done", sa.Boolean, nullable=False),
            sa.Column("expires_at", sa.Float, nullable=False, index=True),
        )
        self._runner: Runner = SqliteRunner(options, self._metadata.create_all)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> SqlStore:
        """Understand an address, as ``SqlBroker.from_url`` does. Raises ``InvalidURL``."""
        return cls(SqlOptions.from_url(url, **options), clock=clock)

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        def work(conn: sa.Connection) -> Claim:
            now = self._clock.time()
            self._sweep(conn, now)
            found = self._find(conn, key, now)
            if found is not None and found.done:
                return Claim.DONE
            if found is not None and found.owner != owner:
                return Claim.HELD
            self._put(conn, key, owner, now + ttl, done=False)
            return Claim.NEW

        return await self._runner.run(work)

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        def work(conn: sa.Connection) -> bool:
            now = self._clock.time()
            own = self._own(key, owner) & (self._table.c.expires_at > now)
            return conn.execute(self._table.update().where(own).values(expires_at=now + ttl)).rowcount == 1

        return await self._runner.run(work)

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        def work(conn: sa.Connection) -> bool:
            now = self._clock.time()
            found = self._find(conn, key, now)
            if found is not None and not found.done and found.owner != owner:
                return False
            self._put(conn, key, owner, now + ttl, done=True)
            return True

        return await self._runner.run(work)

    async def release(self, key: str, owner: str) -> bool:
        def work(conn: sa.Connection) -> bool:
            own = self._own(key, owner) & (self._table.c.expires_at > self._clock.time())
            return conn.execute(self._table.delete().where(own)).rowcount == 1

        return await self._runner.run(work)

    async def set_if_absent(self, key: str, ttl: float) -> bool:
        """For ``IdempotencyCache``: true if the key was not there and is now."""

        def work(conn: sa.Connection) -> bool:
            now = self._clock.time()
            self._sweep(conn, now)
            if self._find(conn, key, now) is not None:
                return False
            self._put(conn, key, "", now + ttl, done=True)
            return True

        return await self._runner.run(work)

    async def forget(self, key: str) -> None:
        """For ``ForgetfulCache``: take the key back."""
        gone = self._table.delete().where(self._table.c.key == key)
        await self._runner.run(lambda conn: conn.execute(gone).rowcount)

    async def close(self) -> None:
        await self._runner.close()

    def _find(self, conn: sa.Connection, key: str, now: float) -> sa.Row[Any] | None:
        table = self._table
        return conn.execute(sa.select(table).where(table.c.key == key, table.c.expires_at > now)).first()

    def _own(self, key: str, owner: str) -> sa.ColumnElement[bool]:
        table = self._table
        return sa.and_(table.c.key == key, table.c.owner == owner, table.c.done.is_(False))

    def _put(self, conn: sa.Connection, key: str, owner: str, expires_at: float, *, done: bool) -> None:
        statement = upsert(self._table)
        fresh = {name: statement.excluded[name] for name in ("owner", "done", "expires_at")}
        conn.execute(
            statement.on_conflict_do_update(index_elements=["key"], set_=fresh),
            {"key": key, "owner": owner, "done": done, "expires_at": expires_at},
        )

    def _sweep(self, conn: sa.Connection, now: float) -> None:
        table = self._table
        stale = sa.select(table.c.key).where(table.c.expires_at <= now).limit(_SWEEP)
        conn.execute(table.delete().where(table.c.key.in_(stale)))
