"""The driver: the port of ``penstock.broker`` over queues of SQS.

publish: ``publishing``. fetch: ``receiving``. settle and extend: ``settling``. What is on the wire: ``wire``. What is for
people: ``inspection``. Calls for many messages: ``batches``; one call: ``connection``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ...broker import FOREVER, Capabilities, Outgoing, Settlement, Subscription
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import AccessDenied, BrokerError
from ...message import Delivery
from .batches import Batches
from .connection import Connection
from .fanout import MAX_PUBLISH, Topics
from .holdings import Holdings, Receipt
from .inspection import SqsInspection
from .names import Names, Queues
from .options import MAX_LEASE, RESERVED_BYTES, SqsOptions
from .publishing import publish
from .receiving import Reader
from .settling import Settler

T = TypeVar("T")

MAX_BATCH = 1000


class SqsBroker(SqsInspection):
    """One owner of leases at one endpoint. ``SqsBroker.from_url("sqs://?region=eu-west-1")`` is the usual way."""

    def __init__(
        self,
        options: SqsOptions,
        *,
        identity: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        original: SqsBroker | None = None,
    ) -> None:
        self.identity = identity or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.options = options
        self.capabilities = Capabilities(
            max_delay=MAX_LEASE if options.fifo else FOREVER,
            persistent=True,
            fanout=options.fanout == "sns",
            keyed=options.fifo,
            counted=not options.fifo,
            retentions=("interest",) if options.fanout == "sns" else ("workqueue",),
            max_batch=MAX_BATCH,
            max_body=(min(options.max_message, MAX_PUBLISH) if options.fanout == "sns" else options.max_message)
            - RESERVED_BYTES,
        )
        self._clock, self._original = clock, original
        self._holdings: Holdings = original._holdings if original else Holdings()  # noqa: SLF001 - our own class
        self._connection = Connection(options, clock)
        self._names, self._queues = Names(options), Queues(self._connection, options)
        self._batches = Batches(self._connection, self._queues, options.max_message)
        self._settler = Settler(self._batches, self._names, self._holdings, clock, self.identity)
        fans_out = options.fanout == "sns"
        self._topics = Topics(options, self._names, self._queues, clock) if fans_out else None
        self._readers: dict[tuple[str, str], Reader] = {}
        self._working: set[asyncio.Future[Any]] = set()
        self._opened = self._closed = False

    @classmethod
    def from_url(
        cls, url: str, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK, **options: Any
    ) -> SqsBroker:
        """A broker at ``url``; ``options`` are those of ``SqsOptions``. Raises ``InvalidURL``."""
        return cls(SqsOptions.from_url(url, **options), identity=identity, clock=clock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, identity={self.identity!r})"

    @property
    def url(self) -> str:
        return self.options.url

    async def open(self) -> None:
        """One harmless call: whoever may not list queues may still use those that he is allowed to."""
        if self._opened:
            return
        try:
            await self._connection.call("list_queues", MaxResults=1)
        except AccessDenied as error:
            if not any(text in str(error) for text in ("AccessDenied", "not authorized")):
                raise
        self._opened, self._closed = True, False

    async def close(self) -> None:
        self._opened, self._closed = False, True
        readers, self._readers = self._readers, {}
        try:
            for reader in readers.values():
                await reader.close()
            if self._working:
                await asyncio.wait(self._working)
            if self._original is None and self._holdings.held:
                with suppress(BrokerError):  # what cannot be given back lapses with its lease
                    await self._settler.give_back(list(self._holdings.held.values()))
        finally:
            await self._connection.close()
            if self._topics is not None:
                await self._topics.close()

    def fork(self) -> SqsBroker:
        return SqsBroker(self.options, identity=self.identity, clock=self._clock, original=self._original or self)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if not messages:
            return []
        return await publish(self._batches, self._names, messages, self._clock.time(), self._topics)

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        if self._closed:
            raise BrokerError("the broker is closed; open it again before reading")
        self._holdings.forget_lapsed(self._clock.monotonic())
        reader = self._reader(subscription)
        if self._topics is not None:
            await self._topics.subscribe(subscription.source, reader.queue, self._connection)
        return await reader.fetch(min(limit, MAX_BATCH), wait)

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        return await self._whole(self._settler.settle(settlements)) if settlements else []

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        return await self._settler.extend(deliveries, lease) if deliveries else []

    def _reader(self, subscription: Subscription) -> Reader:
        name = (subscription.source, subscription.group)
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = Reader(
                subscription,
                self._names.queue(subscription.source, subscription.group),
                self.options,
                connection=self._connection,
                queues=self._queues,
                batches=self._batches,
                settler=self._settler,
                holdings=self._holdings,
                clock=self._clock,
            )
        reader.subscription = subscription
        return reader

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish it even if the caller is cancelled: half of it would be a duplicate."""
        working = asyncio.ensure_future(work)
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return await asyncio.shield(working)
