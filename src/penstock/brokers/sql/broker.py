"""A broker in a SQL database: one connection, every verb one transaction.

Leases, groups and dead letters are rows (``schema``). SQLite has no clock of its own, so times are the injected
clock's. A fetch leases its batch in one statement with a new fencing token; a settlement finds its rows by that token,
so whoever lost a lease touches nothing. Retried messages come back in the order in which they are due.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa

from ...broker import (
    FOREVER,
    Capabilities,
    DeadMessage,
    Finding,
    Outgoing,
    Presence,
    Settlement,
    StreamStats,
    Subscription,
)
from ...clients.sql import Runner, SqliteRunner, SqlOptions, Work
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import BrokerError, PublishError
from ...message import Delivery, Message
from ...outcome import Release
from . import inspection
from .arrivals import Watch, arrivals
from .diagnosis import diagnose
from .publishing import join, publish
from .rows import Receipt, rows
from .schema import schema
from .settling import settle, settling

T = TypeVar("T")

_Deliveries: TypeAlias = list[Delivery[Receipt]]


class SqlBroker:
    """One owner on a database. ``SqlBroker.from_url("sqlite:///jobs.db")`` is the usual way to make one."""

    def __init__(self, options: SqlOptions, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.identity = identity or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        on_disk = options.path is not None
        self.capabilities = Capabilities(
            max_delay=FOREVER,
            ordered=True,
            fanout=True,
            persistent=on_disk,
            idempotent=True,
            retentions=("interest", "workqueue"),
            shared=on_disk,
        )
        self._options, self._clock = options, clock
        self._schema = schema(options.prefix)
        self._rows = rows(self._schema.messages.name, self._schema.streams.name)
        self._runner: Runner = SqliteRunner(options, self._schema.ensure)
        self._bell = arrivals(options.path and str(Path(options.path).resolve()))
        self._watches: dict[tuple[str, str], Watch] = {}
        self._strays: set[asyncio.Future[None]] = set()
        self._forked = self._claimed = self._opened = False

    @classmethod
    def from_url(
        cls, url: str, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK, **options: Any
    ) -> SqlBroker:
        """Understand an address; ``options`` are those of ``SqlOptions``. Raises ``InvalidURL``."""
        return cls(SqlOptions.from_url(url, **options), identity=identity, clock=clock)

    @property
    def url(self) -> str:
        return self._options.url

    async def open(self) -> None:
        if not self._opened:
            await self._runner.changes()
            self._opened = True

    async def close(self) -> None:
        self._opened = False
        if self._strays:
            await asyncio.wait(self._strays)
        if self._claimed and not self._forked:
            with contextlib.suppress(BrokerError):  # then the leases lapse
                await self._leave()
        if not self._forked or self._options.path is not None:
            await self._runner.close()

    def fork(self) -> SqlBroker:
        """A connection of its own; to a database in memory there is only one, and it is shared."""
        other = SqlBroker(self._options, identity=self.identity, clock=self._clock)
        other._forked = True
        if self._options.path is None:
            other._runner, other._bell = self._runner, self._bell
        return other

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if not messages:
            return []
        limit = self.capabilities.max_body
        fates = await self._runner.run(
            lambda conn: publish(conn, self._schema, self._rows, messages, now=self._clock.time(), max_body=limit)
        )
        self._bell.ring()
        ids = [fate for fate in fates if isinstance(fate, str)]
        if len(ids) < len(fates):
            raise PublishError(fates)
        return ids

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        watch = self._watch(subscription)
        if limit <= 0:
            await self._claim(subscription, 0)
            return []
        limit, deadline = self._at_most(limit), self._clock.monotonic() + wait
        ask = wait <= watch.pause or not watch.fresh(self._bell.rung)
        while True:
            rung = self._bell.rung
            if ask and (found := await self._take(subscription, watch, limit, rung)):
                return found
            ask, left = True, deadline - self._clock.monotonic()
            if left <= 0:
                return []
            await self._bell.wait(rung, self._clock, min(left, watch.pause))

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[Receipt]]:
        # Lapsed leases are rare: only a reader asks for them, and nobody waits for the writer's lock in vain.
        if not await self._read(lambda conn: self._rows.any_lapsed(conn, subscription, self._clock.time())):
            return []
        token = self._token()

        def work(conn: sa.Connection) -> _Deliveries:
            owner, now, most = self.identity, self._clock.time(), self._at_most(limit)
            return self._rows.reclaim(
                conn, subscription, most, bounds=(above, below), token=token, owner=owner, now=now
            )

        return await self._guarded(work)

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        if not settlements:
            return []
        owner = self.identity
        lost = await self._runner.run(
            lambda conn: settle(conn, self._schema, self._rows, settlements, owner=owner, now=self._clock.time())
        )
        self._bell.ring()
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        if not deliveries:
            return []

        def work(conn: sa.Connection) -> _Deliveries:
            until, held = self._clock.time() + lease, set[Receipt]()
            for token in {d.receipt[1] for d in deliveries}:
                ids = [d.receipt[0] for d in deliveries if d.receipt[1] == token]
                held |= {(number, token) for number in self._rows.extend(conn, token, ids, until)}
            return [d for d in deliveries if d.receipt not in held]

        return await self._runner.run(work)

    async def trim(self, subscription: Subscription) -> int:
        return await self._runner.run(lambda conn: inspection.sweep(conn, self._schema, self._clock.time()))

    async def beat(self, presence: Presence, ttl: float) -> None:
        until = self._clock.time() + ttl
        await self._runner.run(lambda conn: inspection.beat(conn, self._schema, presence, until))

    async def leave(self, identity: str) -> None:
        await self._runner.run(lambda conn: inspection.leave(conn, self._schema, identity))

    async def processes(self) -> Sequence[Presence]:
        return await self._read(lambda conn: inspection.processes(conn, self._schema, self._clock.time()))

    async def pause(self, source: str) -> bool:
        return await self._runner.run(lambda conn: inspection.pause(conn, self._schema, source, self._clock.time()))

    async def resume(self, source: str) -> bool:
        return await self._runner.run(lambda conn: inspection.resume(conn, self._schema, source))

    async def paused(self) -> frozenset[str]:
        return await self._read(lambda conn: inspection.paused(conn, self._schema))

    async def sources(self) -> Sequence[str]:
        return await self._read(lambda conn: inspection.sources(conn, self._schema))

    async def stats(self, source: str) -> StreamStats:
        return await self._read(lambda conn: inspection.stats(conn, self._schema, source, self._clock.time()))

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        return await self._read(lambda conn: inspection.peek(conn, self._schema, source, limit, self._clock.time()))

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        return await self._read(lambda conn: inspection.dead(conn, self._schema, source, limit, after))

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        max_body = self.capabilities.max_body

        def work(conn: sa.Connection) -> int:
            now = self._clock.time()
            return inspection.requeue_dead(conn, self._schema, self._rows, source, ids, now=now, max_body=max_body)

        count = await self._runner.run(work)
        self._bell.ring()
        return count

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        return await self._runner.run(lambda conn: inspection.purge_dead(conn, self._schema, source, ids))

    async def purge(self, source: str) -> int:
        return await self._runner.run(lambda conn: inspection.purge(conn, self._schema, source))

    async def diagnose(self) -> Sequence[Finding]:
        return await self._read(lambda conn: diagnose(conn, self._options))

    def _watch(self, subscription: Subscription) -> Watch:
        name = (subscription.source, subscription.group)
        if name not in self._watches:
            self._watches[name] = Watch(self._clock)
        return self._watches[name]

    async def _take(self, subscription: Subscription, watch: Watch, limit: int, rung: int) -> _Deliveries:
        """Claim, but look first when the last claim found nothing: looking needs no lock, and often no statement."""
        if not watch.hot:
            seen = (await self._runner.changes(), rung)
            if watch.unchanged(seen):
                return []
            joined, due = await self._read(lambda conn: self._look(conn, subscription))
            if joined and (due is None or due > self._clock.time()):
                watch.empty(seen, due)
                return []
        found = await self._claim(subscription, limit)
        if found:
            watch.found()
        else:
            watch.hot = False
        return found

    def _look(self, conn: sa.Connection, subscription: Subscription) -> tuple[bool, float | None]:
        return subscription.group in self._rows.groups(conn, subscription.source), self._rows.next_due(
            conn, subscription
        )

    async def _claim(self, subscription: Subscription, limit: int) -> _Deliveries:
        token, alone = self._token(), self._options.retention == "workqueue"

        def work(conn: sa.Connection) -> _Deliveries:
            now = self._clock.time()
            join(conn, self._schema, self._rows, subscription, alone=alone, now=now)
            return self._rows.claim(conn, subscription, limit, token=token, owner=self.identity, now=now)

        return await self._guarded(work)

    async def _guarded(self, work: Work[_Deliveries]) -> _Deliveries:
        """Run a claim. If the caller is cancelled meanwhile, what was claimed is given back."""
        self._claimed = True
        claim = asyncio.ensure_future(self._runner.run(work))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            stray = asyncio.ensure_future(self._give_back(claim))
            self._strays.add(stray)
            stray.add_done_callback(self._strays.discard)
            raise

    async def _give_back(self, claim: asyncio.Future[_Deliveries]) -> None:
        with contextlib.suppress(BrokerError):  # then the leases lapse
            await self.settle([Settlement(delivery=delivery, outcome=Release()) for delivery in await claim])

    async def _leave(self) -> None:
        statement = settling(self._schema).leave
        await self._runner.run(lambda conn: conn.execute(statement, {"leaver": self.identity}))
        self._bell.ring()

    async def _read(self, work: Work[T]) -> T:
        return await self._runner.run(work, write=False)

    def _at_most(self, limit: int) -> int:
        return max(min(limit, self.capabilities.max_batch), 0)  # SQLite takes a negative limit for none

    @staticmethod
    def _token() -> int:
        return secrets.randbits(62)
