"""A broker in a SQL database: every verb is one transaction.

Leases, groups and dead letters are rows (``clients/sql_schema``). Times are the server's; SQLite has no clock of its
own, so there they are the injected clock's. A fetch leases its batch in one statement with a new fencing token; a
settlement finds its rows by that token, so whoever lost a lease touches nothing. Retried messages come back in the order
in which they are due. What differs between the databases is in ``dialect`` and the files of that kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa

from ...broker import FOREVER, Capabilities, Outgoing, Settlement, Subscription
from ...clients.sql import SqlOptions, Work
from ...clients.sql_opening import open_runner
from ...clients.sql_schema import schema
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import BrokerError, PublishError
from ...message import Delivery
from ...outcome import Ack, Release
from .administration import Administration
from .arrivals import ASKING, LISTENING, SQLITE, Patience, Watch, arrivals
from .dialects import dialect_for
from .listening import Listener
from .publishing import Refused, destinations, join, publish
from .rows import Lease, Receipt, deliveries
from .settling import settle, settling
from .transactions import acknowledge, groups_held, run_in

_Deliveries: TypeAlias = list[Delivery[Receipt]]

_ONE_LOOK = 0.1  # seconds in which asking for the innocent and then for suspects is one look for lapsed leases


class SqlBroker(Administration):
    """One owner on a database. ``SqlBroker.from_url("sqlite:///jobs.db")`` is the usual way to make one."""

    def __init__(self, options: SqlOptions, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.identity = identity or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        lasting = options.path is not None or options.server is not None
        self._options, self._clock = options, clock
        self._schema = schema(options.prefix)
        self._dialect = dialect_for(options.family, self._schema, clock)
        self.capabilities = Capabilities(
            max_delay=FOREVER,
            ordered=True,
            fanout=True,
            persistent=lasting,
            idempotent=True,
            retentions=("interest", "workqueue"),
            shared=lasting,
            several=True,
            keyed=True,
            max_body=self._dialect.max_body,
        )
        server = options.server is not None
        self._runner = open_runner(
            options, self._schema.check if server and not options.create else self._schema.ensure
        )
        self._bell = arrivals(_place(options))
        self._listener: Listener | None = None
        if options.family == "postgresql" and options.listen:
            self._listener = Listener(options, f"{options.prefix}arrivals", self._bell)
        self._watches: dict[tuple[frozenset[str], str], Watch] = {}
        self._none_lapsed: dict[tuple[frozenset[str], str], float] = {}
        self._joined: set[tuple[str, str]] = set()
        self._strays: set[asyncio.Future[None]] = set()
        self._forked = self._opened = False

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
        if self._listener is not None:
            await self._listener.stop()
        if self._joined and not self._forked:
            with contextlib.suppress(BrokerError):  # then the leases lapse
                await self._leave()
        if not self._forked or self._bell_is_shared():
            await self._runner.close()

    def fork(self) -> SqlBroker:
        """A connection of its own; to a database in memory there is only one, and it is shared."""
        other = SqlBroker(self._options, identity=self.identity, clock=self._clock)
        other._forked = True
        if not self._bell_is_shared():
            other._runner, other._bell = self._runner, self._bell
        return other

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if not messages:
            return []
        limit, dialect = self.capabilities.max_body, self._dialect
        try:
            fates = await self._runner.run(lambda c: publish(c, dialect, messages, max_body=limit, careful=False))
        except Refused:
            fates = await self._runner.run(lambda c: publish(c, dialect, messages, max_body=limit))
        self._bell.ring({item.destination for item in messages})
        return _all_or_error(fates)

    async def publish_in(self, connection: Any, messages: Sequence[Outgoing]) -> Sequence[str]:
        if not messages:
            return []
        limit, dialect, groups = self.capabilities.max_body, self._dialect, None
        if self._options.server is not None:
            groups = await groups_held(dialect, connection, destinations(dialect, messages), self._runner)
        return _all_or_error(
            await run_in(
                dialect, connection, lambda conn: publish(conn, dialect, messages, max_body=limit, groups=groups)
            )
        )

    async def ack_in(self, connection: Any, deliveries: Sequence[Delivery[Any]]) -> Sequence[Delivery[Any]]:
        return await run_in(self._dialect, connection, lambda conn: acknowledge(conn, self._dialect, deliveries))

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Any]:
        return self._runner.begin()

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        queues = subscription.queues or (subscription.source,)
        watch = self._watch(queues, subscription.group)
        if limit <= 0:
            await self._claim(subscription, 0)
            return []
        if wait > 0 and self._listener is not None and not self._forked:
            self._listener.start()
        limit, deadline = self._at_most(limit), self._clock.monotonic() + wait
        ask = wait <= watch.pause or not watch.fresh(self._bell.rung(queues))
        while True:
            rung = self._bell.rung(queues)
            if ask and (found := await self._take(subscription, watch, limit, rung)):
                return found
            ask, left = True, deadline - self._clock.monotonic()
            if left <= 0:
                return []
            await self._bell.wait(queues, rung, self._clock, min(left, watch.pause))

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[Receipt]]:
        # Lapsed leases are rare: only a reader asks for them, and nobody waits for the writer's lock in vain.
        queues = subscription.queues or (subscription.source,)
        place, now = (frozenset(queues), subscription.group), self._clock.monotonic()
        if above and now - self._none_lapsed.get(place, float("-inf")) < _ONE_LOOK:
            return []
        if not await self._read(lambda conn: self._dialect.any_lapsed(conn, queues, subscription.group)):
            self._none_lapsed[place] = now
            return []
        lease = Lease(secrets.randbits(62), self.identity, subscription.lease)
        bounds, most = (above, below), self._at_most(limit)
        return await self._guarded(
            lambda conn: self._dialect.reclaim(conn, subscription, most, bounds=bounds, lease=lease)
        )

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        if not settlements:
            return []
        acks = all(isinstance(item.outcome, Ack) for item in settlements)
        lost = await self._runner.run(
            lambda conn: settle(conn, self._dialect, settlements, owner=self.identity),
            single=acks and self._dialect.single_claim,
        )
        # An ack frees nothing but the next message of its key.
        if not acks or any(item.delivery.message.key is not None for item in settlements):
            self._bell.ring({item.delivery.source for item in settlements})
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        if not deliveries:
            return []
        receipts = [delivery.receipt for delivery in deliveries]
        held = await self._runner.run(lambda conn: self._dialect.extend(conn, receipts, lease))
        return [delivery for delivery in deliveries if delivery.receipt not in held]

    def _watch(self, queues: Sequence[str], group: str) -> Watch:
        name = (frozenset(queues), group)  # what was seen of some of them says nothing of the others
        if name not in self._watches:
            self._watches[name] = Watch(self._clock, self._patience)
        return self._watches[name]

    def _patience(self) -> Patience:
        if self._options.server is None:
            return SQLITE
        return LISTENING if self._listener is not None and self._listener.up else ASKING

    async def _take(self, subscription: Subscription, watch: Watch, limit: int, rung: int) -> _Deliveries:
        """Claim, but look first when the last claim found nothing: looking needs no lock, and often no statement."""
        queues, group = subscription.queues or (subscription.source,), subscription.group
        seen: tuple[int | None, int] | None = None
        if not watch.hot:
            seen = (await self._runner.changes(), rung)
            if watch.unchanged(seen):
                return []
            joined, due = await self._read(lambda conn: self._dialect.look(conn, queues, group))
            if not joined:
                self._joined.difference_update((queue, group) for queue in queues)
            elif due is None or due > 0:
                watch.empty(seen, due)
                return []
        found = await self._claim(subscription, limit)
        if found:
            watch.found()
        elif seen is not None:  # others were faster, or its key is taken
            watch.empty(seen, self._patience().longest)
        else:
            watch.hot = False
        return found

    async def _claim(self, subscription: Subscription, limit: int) -> _Deliveries:
        queues, group, keyed = subscription.queues or (subscription.source,), subscription.group, subscription.keyed
        alone, dialect = self._options.retention == "workqueue", self._dialect
        lease = Lease(secrets.randbits(62), self.identity, subscription.lease)
        unknown = [queue for queue in queues if (queue, group) not in self._joined]

        def work(conn: sa.Connection) -> _Deliveries:
            for queue in unknown:
                join(conn, dialect, subscription, queue, alone=alone)
            found: _Deliveries = []
            for queue in queues:
                if (left := limit - len(found)) <= 0:
                    break
                if keyed:
                    dialect.turn(conn, queue, group)
                rows = dialect.claim(conn, queue, group, left, lease, keyed=keyed)
                found += deliveries(queue, group, lease.token, rows)
            return found

        single = dialect.single_claim and not unknown and not keyed and len(queues) == 1
        found = await self._guarded(work, single=single)
        self._joined.update((queue, group) for queue in unknown)
        return found

    async def _guarded(self, work: Work[_Deliveries], *, single: bool = False) -> _Deliveries:
        """Run a claim. If the caller is cancelled meanwhile, what was claimed is given back."""
        claim = asyncio.ensure_future(self._runner.run(work, single=single))
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
        """Give back what is still held. The groups stay."""
        statement = settling(self._schema).leave
        places = [{"the_queue": q, "the_grp": g, "the_owner": self.identity} for q, g in sorted(self._joined)]
        queues = sorted({queue for queue, _ in self._joined})

        def work(conn: sa.Connection) -> None:
            conn.execute(statement, places)
            self._dialect.announce(conn, queues)

        await self._runner.run(work)
        self._bell.ring(queues)

    def _at_most(self, limit: int) -> int:
        return max(min(limit, self.capabilities.max_batch), 0)  # SQLite takes a negative limit for none

    def _bell_is_shared(self) -> bool:
        """Whether there can be more than one connection: not to a database in memory."""
        return self._options.path is not None or self._options.server is not None


def _all_or_error(fates: Sequence[str | Exception]) -> list[str]:
    ids = [fate for fate in fates if isinstance(fate, str)]
    if len(ids) < len(fates):
        raise PublishError(fates)
    return ids


def _place(options: SqlOptions) -> str | None:
    """What names the database within this process."""
    if options.server is not None:
        return f"{options.server.url} {options.prefix}"
    return options.path and str(Path(options.path).resolve())
