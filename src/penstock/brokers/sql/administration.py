"""The side of the driver that is not the hot path: presence, pauses, looking, mending, sweeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa

from ...bindings import PREFIX, Fate, Post
from ...broker import Capabilities, DeadMessage, Finding, Presence, StreamStats, Subscription
from ...clients.sql import Runner, SqlOptions, Work
from ...clients.sql_schema import LONGEST_NAME, Schema
from ...errors import ConfigurationError
from ...glob import glob
from ...message import Message
from . import bindings, inspection
from .arrivals import Arrivals
from .dialect import Dialect
from .publishing import Refused

T = TypeVar("T")


class Administration:
    """What ``SqlBroker`` inherits. Each method is one transaction."""

    capabilities: Capabilities
    _options: SqlOptions
    _schema: Schema
    _dialect: Dialect
    _runner: Runner
    _bell: Arrivals

    async def trim(self, subscription: Subscription) -> int:
        return await self._runner.run(lambda conn: inspection.sweep(conn, self._schema, self._dialect.now(conn)))

    async def beat(self, presence: Presence, ttl: float) -> None:
        def work(conn: sa.Connection) -> None:
            inspection.beat(conn, self._dialect, presence, self._dialect.now(conn) + ttl)

        await self._runner.run(work)

    async def leave(self, identity: str) -> None:
        await self._runner.run(lambda conn: inspection.leave(conn, self._schema, identity))

    async def processes(self) -> Sequence[Presence]:
        return await self._read(lambda conn: inspection.processes(conn, self._schema, self._dialect.now(conn)))

    async def pause(self, source: str) -> bool:
        return await self._runner.run(
            lambda conn: inspection.pause(conn, self._dialect, source, self._dialect.now(conn))
        )

    async def resume(self, source: str) -> bool:
        return await self._runner.run(lambda conn: inspection.resume(conn, self._schema, source))

    async def paused(self) -> frozenset[str]:
        return await self._read(lambda conn: inspection.paused(conn, self._schema))

    async def sources(self) -> Sequence[str]:
        return await self._read(lambda conn: inspection.sources(conn, self._schema))

    async def stats(self, source: str) -> StreamStats:
        return await self._read(lambda conn: inspection.stats(conn, self._schema, source, self._dialect.now(conn)))

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        return await self._read(
            lambda conn: inspection.peek(conn, self._schema, source, limit, self._dialect.now(conn))
        )

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        return await self._read(lambda conn: inspection.dead(conn, self._schema, source, limit, after))

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        limit = self.capabilities.max_body
        count = await self._runner.run(
            lambda conn: inspection.requeue_dead(conn, self._dialect, source, ids, max_body=limit)
        )
        self._bell.ring((source,))
        return count

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        return await self._runner.run(lambda conn: inspection.purge_dead(conn, self._schema, source, ids))

    async def purge(self, source: str) -> int:
        return await self._runner.run(lambda conn: inspection.purge(conn, self._schema, source))

    def source_of(self, pattern: str) -> str:
        return PREFIX + pattern

    async def bind(self, pattern: str, group: str) -> str:
        glob(pattern)
        source, most = self.source_of(pattern), self._dialect.longest_name or LONGEST_NAME
        if len(source) > most or len(group) > most:
            raise ConfigurationError(
                f"{source!r} and {group!r} are names of at most {most} characters: choose shorter ones"
            )
        await self._runner.run(lambda conn: bindings.bind(conn, self._dialect, pattern, group))
        return source

    async def unbind(self, pattern: str, group: str) -> bool:
        return await self._runner.run(lambda conn: bindings.unbind(conn, self._dialect, pattern, group))

    async def bindings(self) -> Mapping[str, frozenset[str]]:
        return await self._read(lambda conn: bindings.bindings(conn, self._dialect))

    async def post(self, posts: Sequence[Post]) -> Sequence[Fate]:
        if not posts:
            return []
        limit, dialect = self.capabilities.max_body, self._dialect
        try:
            fates, rung = await self._runner.run(
                lambda c: bindings.post(c, dialect, posts, max_body=limit, careful=False)
            )
        except Refused:
            fates, rung = await self._runner.run(lambda c: bindings.post(c, dialect, posts, max_body=limit))
        self._bell.ring(rung)
        return fates

    async def dead_sources(self) -> Sequence[str]:
        return [name for name in await self.sources() if name.startswith(PREFIX)]

    async def diagnose(self) -> Sequence[Finding]:
        return await self._read(lambda conn: self._dialect.diagnose(conn, self._options))

    async def _read(self, work: Work[T]) -> T:
        return await self._runner.run(work, write=False)
