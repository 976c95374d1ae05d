"""Reading one queue: one long poll while it is empty, several short ones at once while it is full.

A call brings at most ten messages, so a batch is merged from several. Only one call ever waits: of several that wait,
all but one would go on waiting when a message comes, and what they took meanwhile nobody would hand out.

A message that came early (``due``) goes back with the rest of its delay and is handed to nobody. A fetch that is
cancelled leaves its call under way for the next fetch; if none comes, what it brought is given back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from ...broker import Subscription
from ...clock import Clock
from ...errors import BrokerError, ConfigurationError
from ...message import Delivery
from . import wire
from .batches import TEN, Batches
from .connection import Connection
from .holdings import Holdings, Receipt
from .names import FIFO, Queues
from .options import MAX_LEASE, SqsOptions
from .settling import Settler, limit_from

logger = logging.getLogger("penstock")

LONGEST_WAIT = 20.0  # seconds: SQS waits no longer
PICKED_UP_WITHIN = 1.0  # seconds for the next fetch to come after a cancelled one

Found = list[Delivery[Receipt]]


class Reader:
    """One subscription's view of its queue."""

    def __init__(  # noqa: PLR0913 - parts of one broker, wired once
        self,
        subscription: Subscription,
        queue: str,
        options: SqsOptions,
        *,
        connection: Connection,
        queues: Queues,
        batches: Batches,
        settler: Settler,
        holdings: Holdings,
        clock: Clock,
    ) -> None:
        if subscription.lease > MAX_LEASE:
            raise ConfigurationError(
                f"SQS hides a message for at most {MAX_LEASE:.0f} seconds (12 hours), got a lease of"
                f" {subscription.lease}; take a short one: it is renewed while the handler runs"
            )
        self.subscription, self.queue = subscription, queue
        self._options, self._connection, self._queues = options, connection, queues
        self._batches, self._settler, self._holdings, self._clock = batches, settler, holdings, clock
        self._fifo = queue.endswith(FIFO)
        self._hot = False
        self._pending: asyncio.Future[Found] | None = None
        self._strays: set[asyncio.Future[None]] = set()
        self._giving: set[asyncio.Future[None]] = set()  # of the strays: those that must not be interrupted any more

    async def fetch(self, limit: int, wait: float) -> Found:
        """As the port says; ``wait`` is rounded up to whole seconds."""
        if limit <= 0:
            await self._queues.url(self.queue)
            return []
        pending, self._pending = self._pending, None
        if pending is None:
            pending = asyncio.ensure_future(self._gather(limit, wait))
        try:
            found = await asyncio.shield(pending)
        except asyncio.CancelledError:
            if not pending.cancelled():
                self._leave_behind(pending)
            raise
        if len(found) > limit:  # an earlier fetch had asked for more
            await self._settler.give_back(found[limit:])
        return found[:limit]

    async def close(self) -> None:
        """Let go of what is under way; what it might still bring lapses."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        for stray in list(self._strays - self._giving):
            stray.cancel()
        await asyncio.gather(*self._strays, return_exceptions=True)

    def _leave_behind(self, pending: asyncio.Future[Found]) -> None:
        self._pending = pending
        stray = asyncio.ensure_future(self._unless_picked_up(pending))
        self._strays.add(stray)
        stray.add_done_callback(self._strays.discard)

    async def _unless_picked_up(self, pending: asyncio.Future[Found]) -> None:
        await asyncio.wait({pending})
        await self._clock.sleep(min(PICKED_UP_WITHIN, self.subscription.lease / 4))
        if self._pending is not pending:
            return
        self._pending = None
        if (task := asyncio.current_task()) is not None:
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)
        try:
            await self._settler.give_back(await pending)
        except BrokerError:
            logger.debug("what a cancelled fetch of %s brought lapses with its lease", self.queue, exc_info=True)

    async def _gather(self, limit: int, wait: float) -> Found:
        """Ask until there is something, or for as long as wanted: what came early is nothing."""
        until = self._clock.monotonic() + wait
        while not (found := await self._gathered(limit, wait)) and (wait := until - self._clock.monotonic()) > 0:
            pass
        return found

    async def _gathered(self, limit: int, wait: float) -> Found:
        """Ask until there are enough, the queue has no more, or the first have waited long enough."""
        found, full = list[Delivery[Receipt]](), self._hot
        if not full:
            found, full = await self._receive(min(limit, self._at_once), wait)
        enough = self._clock.monotonic() + min(1.0, self.subscription.lease / 4)
        while full and len(found) < limit and self._clock.monotonic() < enough:
            asked = self._shares(limit - len(found))
            results = await asyncio.gather(*(self._receive(n, 0.0) for n in asked), return_exceptions=True)
            broken = [result for result in results if isinstance(result, BaseException)]
            brought = [
                delivery for result in results if not isinstance(result, BaseException) for delivery in result[0]
            ]
            found += brought
            if broken and not found:
                raise broken[0]
            full = not broken and 2 * len(brought) >= sum(asked)
        self._hot = full
        return found

    @property
    def _at_once(self) -> int:
        """Messages of one call. Of a group that is read in turn, no follower may come along: it could not be put back
        without being counted.
        """
        return 1 if self._fifo and self.subscription.keyed else TEN

    def _shares(self, wanted: int) -> list[int]:
        """What each of several calls at once asks for."""
        each = self._at_once
        calls = min(math.ceil(wanted / each), self._options.parallel)
        return [min(each, wanted - n * each) for n in range(calls)]

    async def _receive(self, limit: int, wait: float) -> tuple[Found, bool]:
        """One call; what it brought to be handed out, and whether it brought as much as it was asked for."""
        wait = math.ceil(min(max(wait, 0.0), LONGEST_WAIT))
        lease = math.ceil(self.subscription.lease)
        asked_at = self._clock.monotonic()

        async def ask(url: str) -> Mapping[str, Any]:
            return await self._connection.call(
                "receive_message",
                wait=wait,
                QueueUrl=url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=wait,
                VisibilityTimeout=lease,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"],
            )

        raws: Sequence[Mapping[str, Any]] = (await self._queues.on(self.queue, ask)).get("Messages") or ()
        if not raws:
            return [], False
        deadline = asked_at + lease  # what was waited for began later
        read = [wire.read(raw, self._options.default_type) for raw in raws]
        now = self._clock.time()
        early = [n for n, each in enumerate(read) if each.due is not None and each.due > now]
        found = [
            self._delivery(raws[n], each, deadline, limit_from(asked_at))
            for n, each in enumerate(read)
            if n not in early
        ]
        if early:
            try:
                await self._send_on([(raws[n], read[n]) for n in early], now)
            except BrokerError:  # they come again by themselves, and what came with them must not be lost sight of
                logger.debug("early messages of %s could not be sent on", self.queue, exc_info=True)
        return found, len(raws) == limit

    def _delivery(self, raw: Mapping[str, Any], read: wire.Read, deadline: float, limit: float) -> Delivery[Receipt]:
        message, count, ident = read.message, read.count - self._holdings.refunded(raw["MessageId"]), raw["MessageId"]
        if self._fifo:  # its message is not rewritten, so that each delivery but those known of is an attempt
            count -= self._came_early(raw, read)
            message, count = replace(message, attempt=message.attempt + max(count, 1) - 1), 1
        delivery = Delivery(
            message=message,
            source=self.subscription.source,
            group=self.subscription.group,
            receipt=Receipt(
                handle=raw["ReceiptHandle"],
                queue=self.queue,
                ident=ident,
                deadline=deadline,
                limit=limit,
                raw=None if read.defect is None else raw,
            ),
            count=max(count, 1),
            defect=read.defect,
        )
        self._holdings.take(delivery)
        return delivery

    @staticmethod
    def _came_early(raw: Mapping[str, Any], read: wire.Read) -> int:
        """Whether a delayed message of a FIFO queue was received before it was due, and hidden again."""
        first = int(raw["Attributes"].get("ApproximateFirstReceiveTimestamp", 0)) / 1000
        return int(read.due is not None and first < read.due)

    async def _send_on(self, early: Sequence[tuple[Mapping[str, Any], wire.Read]], now: float) -> None:
        """Have them wait for what is left of their delay, nobody having seen them."""
        handles = [raw["ReceiptHandle"] for raw, _ in early]
        left = [max((read.due or 0.0) - now, 0.0) for _, read in early]
        if self._fifo:
            seconds = [min(math.ceil(delay), math.floor(MAX_LEASE) - 1) for delay in left]
            await self._batches.show(self.queue, handles, seconds)
            return
        copies = [
            wire.delayed(read.message, delay, now, count=read.count - 1)
            for (_, read), delay in zip(early, left, strict=True)
        ]
        fates = await self._batches.send(self.queue, copies)
        moved = [handle for handle, fate in zip(handles, fates, strict=True) if isinstance(fate, str)]
        await self._batches.delete(self.queue, moved)
