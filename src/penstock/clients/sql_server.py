"""PostgreSQL and MySQL for the runner of transactions: a small pool of connections of an async engine.

Every transaction runs in a task of its own, under the deadline of the call: whoever cancels the call does not cut the
transaction off. What the server wants repeated (a deadlock, a conflict) is repeated until the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ..errors import BrokerError, ConfigurationError, ConnectionFailed
from . import sql_failures as failures
from .sql import SqlOptions, Work
from .sql_libraries import connector

T = TypeVar("T")

_NAP = 0.02


class ServerRunner:
    """Connections to one database, for one event loop.

    ``prepare`` runs in a transaction of its own before the first other one and when a table is missing.
    """

    def __init__(self, options: SqlOptions, prepare: Work[None]) -> None:
        self._options, self._prepare = options, prepare
        self._engine: AsyncEngine | None = None
        self._single: AsyncEngine | None = None
        self._prepared = False
        self._turns = asyncio.Semaphore(options.pool)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Work[T], *, write: bool = True, single: bool = False) -> T:
        return await self._apart(self._patiently(work, single=single or not write))

    async def changes(self) -> int | None:
        if not self._prepared:
            await self._apart(self._patiently(lambda _: None, single=True))
        return None

    async def close(self) -> None:
        engine, self._engine, self._single, self._prepared = self._engine, None, None, False
        if self._running:
            await asyncio.wait(self._running)
        if engine is not None:
            with contextlib.suppress(TimeoutError, OSError, exc.SQLAlchemyError):
                async with asyncio.timeout(self._options.timeout):
                    await engine.dispose()

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction for somebody else's statements: theirs to fill, committed when the block ends without error."""
        await self.changes()
        async with self._turns:  # so many at once, beside the broker's own
            engine, _ = self._engines()
            with failures.translate(self._options):
                connection = await engine.connect()
            try:
                yield connection
                with failures.translate(self._options):
                    async with asyncio.timeout(self._options.timeout):  # the statements before it are theirs to limit
                        await connection.commit()
            finally:
                await connection.close()

    async def _apart(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, or was cancelled and does not want it

    async def _patiently(self, work: Work[T], *, single: bool) -> T:
        """Run it until it goes through or the deadline has passed."""
        deadline = time.monotonic() + self._options.timeout
        with failures.translate(self._options):
            while True:
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                        return await self._execute(work, single=single)
                except exc.DBAPIError as error:
                    if not failures.is_conflict(error) or time.monotonic() >= deadline:
                        raise
                await asyncio.sleep(random.uniform(_NAP / 4, _NAP))  # noqa: S311 -- only to get out of step

    async def _execute(self, work: Work[T], *, single: bool) -> T:
        if not self._prepared:
            await self._transact(self._prepare, single=False)
            self._prepared = True
        try:
            return await self._transact(work, single=single)
        except exc.DBAPIError as error:
            if not failures.is_missing_table(error):
                raise
        try:
            await self._transact(self._prepare, single=False)
        except ConfigurationError as missing:
            # They were there when the broker was opened: somebody is at work on them, and will have done
            raise ConnectionFailed(str(missing)) from missing
        return await self._transact(work, single=single)

    async def _transact(self, work: Work[T], *, single: bool) -> T:
        engine, alone = self._engines()
        async with (alone if single else engine).connect() as connection:
            result = await connection.run_sync(work)
            if not single:
                await connection.commit()
            return result

    def _engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        if self._engine is None or self._single is None:
            server = self._options.server
            if server is None:
                raise BrokerError("there is no server in this address")
            library = connector(self._options, server)
            self._engine = create_async_engine(
                library.url,
                async_creator=library.connect,
                connect_args=library.arguments,
                isolation_level=library.isolation,
                poolclass=AsyncAdaptedQueuePool,
                pool_size=self._options.pool,
                max_overflow=self._options.pool,
                pool_timeout=self._options.timeout,
                pool_use_lifo=True,
            )
            self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        return self._engine, self._single


def transactional(conn: sa.Connection) -> bool:
    """Whether tables are made inside of transactions here."""
    return conn.dialect.name != "mysql"
