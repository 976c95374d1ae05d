"""The original's ``jobs`` table, in PostgreSQL, MySQL, MariaDB or SQLite: what waits, what is reserved, what has failed.

A row that is being moved is reserved, as the original's workers do it, so that none of them takes it meanwhile. A
reserved row is moved as well: the original would run it again after five minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from ...config import mask_url
from ...errors import BrokerError, ConfigurationError, ConnectionFailed, InvalidURL, MissingExtra
from .source import Beside, Entry, Page, Timetable

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

T = TypeVar("T")

PAGE: Final = 500
FAILED: Final = "failed:"
DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+aiomysql",
    "mariadb": "mysql+aiomysql",
}
COLUMNS: Final = ("id", "queue", "payload", "attempts", "reserved_at", "available_at", "created_at")


class SqlSource:
    """``table``: the driver's option of that name, with a schema before it if need be."""

    def __init__(self, url: str, table: str = "jobs") -> None:
        self._url, (schema, _, name) = mask_url(url), table.rpartition(".")
        self._table = sa.table(name, *map(sa.column, COLUMNS), schema=schema or None)
        self._engine = _engine(url)

    async def pages(self) -> AsyncIterator[Page]:
        await self._check()
        last: int | None = None
        while rows := await self._run(partial(self._rows, last)):
            last = rows[-1].id
            yield Page([self._entry(row) for row in rows])

    async def claim(self, entries: Sequence[Entry]) -> Sequence[str | None]:
        table, ids = self._table, [int(entry.at) for entry in entries]
        there = sa.select(table.c.id).where(table.c.id.in_(ids))
        mine = table.update().where(table.c.id.in_(ids)).values(reserved_at=sa.func.current_timestamp())

        def work(conn: sa.Connection) -> set[int]:
            if not ids:
                return set()
            conn.execute(mine)
            return {*conn.scalars(there)}

        found = await self._run(work)
        return [f"{table.name}:{ident}" if ident in found else None for ident in ids]

    async def remove(self, entries: Sequence[Entry], tokens: Sequence[str]) -> None:
        gone = self._table.delete().where(self._table.c.id.in_([int(entry.at) for entry in entries]))
        if entries:
            await self._run(lambda conn: conn.execute(gone))

    async def beside(self) -> Beside:
        return Beside()  # the original keeps recurring jobs and pauses in Redis only

    async def forget(self, timetable: Timetable) -> None: ...

    async def close(self) -> None:
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()

    async def _check(self) -> None:
        table = self._table

        def names(conn: sa.Connection) -> set[str]:
            look = sa.inspect(conn)
            if not look.has_table(table.name, table.schema):
                return set()
            return {column["name"] for column in look.get_columns(table.name, table.schema)}

        lacking = {*COLUMNS} - await self._run(names)
        if lacking:
            raise ConfigurationError(
                f"{self._url} has no table {table.fullname!r} of the original: it lacks {', '.join(sorted(lacking))};"
                " name it with --table"
            )

    def _rows(self, after: int | None, conn: sa.Connection) -> Sequence[Any]:
        table = self._table
        # As text: SQLite has no times, and the original writes UTC whatever zone the session has
        due = sa.cast(table.c.available_at, sa.String(64)).label("due")
        rows = sa.select(table.c.id, table.c.queue, table.c.payload, due).order_by(table.c.id).limit(PAGE)
        return conn.execute(rows if after is None else rows.where(table.c.id > after)).all()

    def _entry(self, row: Any) -> Entry:
        failed = row.queue.startswith(FAILED)
        return Entry(
            raw=row.payload.encode() if isinstance(row.payload, str) else bytes(row.payload),
            place=f"{self._table.name}, row {row.id}",
            at=f"{row.id}",
            queue=row.queue.removeprefix(FAILED),
            due=None if failed else _seconds(row.due),
            failed=failed,
        )

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            if isinstance(self._engine, AsyncEngine):
                async with self._engine.begin() as connection:
                    return await connection.run_sync(work)
            return await asyncio.to_thread(_in_transaction, self._engine, work)
        except exc.OperationalError as error:
            raise ConnectionFailed(f"{self._url}: {error.orig}") from error
        except exc.SQLAlchemyError as error:
            raise BrokerError(f"{self._url}: {error}") from error
        except OSError as error:
            raise ConnectionFailed(f"cannot reach {self._url}: {error}") from error


def _in_transaction(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _engine(url: str) -> sa.Engine | AsyncEngine:
    try:
        parsed = sa.make_url(url)
        driver = DRIVERS[parsed.get_backend_name()]
    except (exc.ArgumentError, KeyError) as error:
        raise InvalidURL(
            f"expected an address such as postgresql://user@host/database, got {mask_url(url)!r}"
        ) from error
    if driver == "sqlite":
        return sa.create_engine(parsed)
    try:
        return create_async_engine(parsed.set(drivername=driver))
    except ImportError as error:
        raise MissingExtra(driver.partition("+")[2], driver.partition("+")[0]) from error


def _seconds(text: str | None) -> float | None:
    """A time of the database as seconds since the epoch; what has no zone is UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
