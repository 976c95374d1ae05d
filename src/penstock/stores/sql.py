"""Keys that have been done, in a table of their own: the ``Store`` for programs that live on a SQL database.

A row is a reservation while ``done`` is false; then ``owner`` is the fencing token. An expired row is as good as none.
Every step begins by locking the key's row, which is made for that where there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from ..clients.sql import SqlOptions
from ..clients.sql_dialect import sql_dialect
from ..clients.sql_opening import open_runner
from ..clients.sql_schema import LONGEST_NAME, schema
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError, MissingExtra
from ..store import Claim, Grant, charged

try:
    import sqlalchemy as sa
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

_BUDGETS: Final = "budgets"
_TABLE: Final = "table:"
_spent = msgspec.json.Decoder(dict[int, int])
_SWEEP = 100  # expired keys that one reservation sweeps away
_LONGEST_KEY: Final = 512


class SqlStore:
    """A ``Store`` and an ``IdempotencyCache`` in one table."""

    def __init__(self, options: SqlOptions, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock, self._sql = clock, sql_dialect(options.family)
        tables = schema(options.prefix)
        self._table, self._cells = tables.keys, tables.cells
        server = options.server is not None
        self._runner = open_runner(options, tables.check if server and not options.create else tables.ensure)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> SqlStore:
        """Understand an address, as ``SqlBroker.from_url`` does. Raises ``InvalidURL``."""
        return cls(SqlOptions.from_url(url, **options), clock=clock)

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        key = _fitting(key, _LONGEST_KEY)

        def work(conn: sa.Connection) -> Claim:
            now = self._now(conn)
            self._sweep(conn, now, self._table)
            found = self._locked(conn, key, now)
            if found is not None and found.done:
                return Claim.DONE
            if found is not None and found.owner != owner:
                return Claim.HELD
            self._write(conn, key, owner=owner, done=False, expires_at=now + ttl)
            return Claim.NEW

        return await self._runner.run(work)

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        key = _fitting(key, _LONGEST_KEY)

        def work(conn: sa.Connection) -> bool:
            now = self._now(conn)
            own = self._own(key, owner) & (self._table.c.expires_at > now)
            return conn.execute(self._table.update().where(own).values(expires_at=now + ttl)).rowcount == 1

        return await self._runner.run(work)

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        key = _fitting(key, _LONGEST_KEY)

        def work(conn: sa.Connection) -> bool:
            now = self._now(conn)
            found = self._locked(conn, key, now)
            if found is not None and not found.done and found.owner != owner:
                return False
            self._write(conn, key, owner=owner, done=True, expires_at=now + ttl)
            return True

        return await self._runner.run(work)

    async def release(self, key: str, owner: str) -> bool:
        key = _fitting(key, _LONGEST_KEY)

        def work(conn: sa.Connection) -> bool:
            own = self._own(key, owner) & (self._table.c.expires_at > self._now(conn))
            return conn.execute(self._table.delete().where(own)).rowcount == 1

        return await self._runner.run(work)

    async def set_if_absent(self, key: str, ttl: float) -> bool:
        """For ``IdempotencyCache``: true if the key was not there and is now."""
        key = _fitting(key, _LONGEST_KEY)

        def work(conn: sa.Connection) -> bool:
            now = self._now(conn)
            self._sweep(conn, now, self._table)
            if self._locked(conn, key, now) is not None:
                return False
            self._write(conn, key, owner="", done=True, expires_at=now + ttl)
            return True

        return await self._runner.run(work)

    async def forget(self, key: str) -> None:
        """For ``ForgetfulCache``: take the key back."""
        gone = self._table.delete().where(self._table.c.key == _fitting(key, _LONGEST_KEY))
        await self._runner.run(lambda conn: conn.execute(gone).rowcount)

    async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
        name = _fitting(name, LONGEST_NAME)

        def work(conn: sa.Connection) -> Grant:
            now = self._now(conn)
            self._sweep(conn, now, self._cells)
            value = self._cell(conn, _BUDGETS, name)
            spent = {} if value is None else _spent.decode(value)
            grant, spent = charged(spent, now, limit=limit, window=window, wanted=wanted)
            if grant.count:
                self._write_cell(conn, _BUDGETS, name, msgspec.json.encode(spent), now + 2 * window)
            return grant

        def look(conn: sa.Connection) -> Grant:
            value = self._seen(conn, _BUDGETS, name)
            spent = {} if value is None else _spent.decode(value)
            return charged(spent, self._now(conn), limit=limit, window=window, wanted=0)[0]

        return await self._runner.run(look if wanted == 0 else work, write=wanted > 0)

    async def rows(self, table: str) -> Mapping[str, bytes]:
        cells = self._cells
        all_ = sa.select(cells.c.key, cells.c.value).where(cells.c.place == _TABLE + table, cells.c.value.is_not(None))

        def work(conn: sa.Connection) -> dict[str, bytes]:
            return {key: bytes(value) for key, value in conn.execute(all_)}

        return await self._runner.run(work, write=False)

    async def put(self, table: str, key: str, value: bytes | None, expected: bytes | UnsetType | None = UNSET) -> bool:
        if key != _fitting(key, LONGEST_NAME):
            raise ConfigurationError(f"the name of a row is text of up to {LONGEST_NAME} characters, got {key!r:.100}")

        def work(conn: sa.Connection) -> bool:
            found = self._cell(conn, _TABLE + table, key)
            if expected is not UNSET and found != expected:
                return False
            if value is None:
                cells = self._cells
                conn.execute(cells.delete().where(cells.c.place == _TABLE + table, cells.c.key == key))
            else:
                self._write_cell(conn, _TABLE + table, key, value, None)
            return True

        return await self._runner.run(work)

    async def close(self) -> None:
        await self._runner.close()

    def _cell(self, conn: sa.Connection, place: str, key: str) -> bytes | None:
        """What is in a cell; nobody else gets at it before this transaction has ended."""
        conn.execute(self._sql.add(self._cells), {"place": place, "key": key, "value": None, "expires_at": None})
        return self._seen(conn, place, key, lock=True)

    def _seen(self, conn: sa.Connection, place: str, key: str, *, lock: bool = False) -> bytes | None:
        cells = self._cells
        one = sa.select(cells.c.value).where(cells.c.place == place, cells.c.key == key)
        found = conn.scalar(one.with_for_update() if lock else one)
        return None if found is None else bytes(found)

    def _write_cell(self, conn: sa.Connection, place: str, key: str, value: bytes, expires_at: float | None) -> None:
        cells = self._cells
        one = cells.update().where(cells.c.place == place, cells.c.key == key)
        conn.execute(one.values(value=value, expires_at=expires_at))

    def _now(self, conn: sa.Connection) -> float:
        return self._sql.now(conn, self._clock)

    def _locked(self, conn: sa.Connection, key: str, now: float) -> sa.Row[Any] | None:
        """What is known of a key; nobody else gets at it before this transaction has ended."""
        table = self._table
        nothing = {"key": key, "owner": "", "done": False, "expires_at": 0.0}
        conn.execute(self._sql.add(table), nothing)
        found = conn.execute(sa.select(table).where(table.c.key == key).with_for_update()).first()
        return None if found is None or found.expires_at <= now else found

    def _own(self, key: str, owner: str) -> sa.ColumnElement[bool]:
        table = self._table
        return sa.and_(table.c.key == key, table.c.owner == owner, table.c.done.is_(False))

    def _write(self, conn: sa.Connection, key: str, **values: Any) -> None:
        conn.execute(self._sql.put(self._table, tuple(values)), {"key": key, **values})

    @staticmethod
    def _sweep(conn: sa.Connection, now: float, table: sa.Table) -> None:
        stale = sa.select(table.c.key).where(table.c.expires_at <= now).limit(_SWEEP).with_for_update(skip_locked=True)
        if keys := list(conn.scalars(stale)):
            conn.execute(table.delete().where(table.c.key.in_(keys), table.c.expires_at <= now))


def _fitting(name: str, longest: int) -> str:
    """A name as its column takes it: what is too long for it, or no text there, by its digest.

    MySQL would cut it off when it is added and find nothing afterwards; PostgreSQL refuses it.
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raw = b""
    if raw and len(name) <= longest and b"\0" not in raw:
        return name
    return f"sha256:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
