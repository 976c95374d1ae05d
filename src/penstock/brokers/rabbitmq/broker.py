"""A broker on RabbitMQ: the port, for any loop; the work is done on the thread of the connections (``core``)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from ...broker import (
    Capabilities,
    DeadMessage,
    Finding,
    Outgoing,
    Settlement,
    StreamStats,
    Subscription,
)
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import PublishError
from ...message import Delivery, Message
from . import inspection, names
from .core import Core
from .diagnosis import diagnose
from .holdings import Receipt
from .link import Home
from .options import RabbitmqAddress, RabbitmqOptions, options_of
from .publishing import MAX_BODY
from .reading import Ticket


class RabbitmqBroker:
    """One owner on a server. ``RabbitmqBroker.from_url("amqp://localhost")`` is the usual way to make one."""

    capabilities = Capabilities(
        max_delay=names.MAX_DELAY,
        ordered=True,
        fanout=True,
        persistent=True,
        several=True,
        backfill=False,
        atomic_settle=False,
        max_body=MAX_BODY,
    )

    def __init__(
        self,
        address: RabbitmqAddress,
        options: RabbitmqOptions | None = None,
        *,
        identity: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        original: RabbitmqBroker | None = None,
    ) -> None:
        self.identity = identity or f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._address, self._options, self._clock = address, options or RabbitmqOptions(), clock
        self._original = original
        self._home: Home[Core] = original._home if original else Home(self._core)  # noqa: SLF001 - one of us
        self._opened = False

    @classmethod
    def from_url(
        cls, url: str, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK, **options: Any
    ) -> RabbitmqBroker:
        """Understand an address; ``options`` are those of ``RabbitmqOptions``. Raises ``InvalidURL``."""
        address = RabbitmqAddress.parse(url)
        return cls(address, options_of(address, options), identity=identity, clock=clock)

    @property
    def url(self) -> str:
        return self._address.masked

    async def open(self) -> None:
        if self._opened:
            return
        self._enter()
        try:
            await self._home.run(lambda core: core.open())
        except BaseException:
            self._leave()
            raise

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        try:
            if self._original is None:
                await self._home.run(lambda core: core.close(giving_back=True))
        finally:
            self._home.leave()

    def fork(self) -> RabbitmqBroker:
        """Another loop's way to the same connections: what was fetched belongs to them."""
        original = self._original or self
        return RabbitmqBroker(
            self._address, self._options, identity=self.identity, clock=self._clock, original=original
        )

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if not messages:
            return []
        self._enter()
        fates = await self._home.run(lambda core: core.publish(messages))
        ids = [fate for fate in fates if isinstance(fate, str)]
        if len(ids) < len(fates):
            raise PublishError(fates)
        return ids

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        self._enter()
        ticket, most = Ticket(), min(limit, self.capabilities.max_batch)
        try:
            return await self._home.run(lambda core: core.fetch(subscription, most, wait, ticket))
        except asyncio.CancelledError:
            self._home.post(lambda core: core.reader(subscription).give_up(ticket))
            raise

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        if not settlements:
            return []
        self._enter()
        return await self._home.run(lambda core: core.settle(settlements))

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        if not deliveries:
            return []
        self._enter()
        return await self._home.run(lambda core: core.extend(deliveries, lease))

    async def sources(self) -> Sequence[str]:
        self._enter()
        return await self._home.run(lambda core: inspection.sources(core, self._address))

    async def stats(self, source: str) -> StreamStats:
        self._enter()
        return await self._home.run(lambda core: inspection.stats(core, self._address, source))

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        self._enter()
        return await self._home.run(lambda core: inspection.peek(core, self._address, source, limit))

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        self._enter()
        return await self._home.run(lambda core: inspection.dead(core, source, limit, after))

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        self._enter()
        return await self._home.run(lambda core: inspection.requeue_dead(core, source, ids))

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        self._enter()
        return await self._home.run(lambda core: inspection.purge_dead(core, source, ids))

    async def purge(self, source: str) -> int:
        self._enter()
        return await self._home.run(lambda core: inspection.purge(core, self._address, source))

    async def diagnose(self) -> Sequence[Finding]:
        self._enter()
        return await self._home.run(lambda core: diagnose(core, self._address))

    def _core(self) -> Core:
        return Core(self._address, self._options, self.identity, self._clock)

    def _enter(self) -> None:
        """The first use opens it."""
        if not self._opened:
            self._home.enter()
            self._opened = True

    def _leave(self) -> None:
        if self._opened:
            self._opened = False
            self._home.leave()
