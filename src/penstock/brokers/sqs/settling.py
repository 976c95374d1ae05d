"""Settling and extending: SQS cannot change a message, so what must change is written anew.

Standard queues: ``Retry``, ``Release`` and ``DeadLetter`` write the new copy first and delete the old one then. Between
the two the message is there twice, with the same id: who dies there leaves a duplicate, never a loss.
FIFO queues: ``Retry`` and ``Release`` only change when the message is visible again, so that its group waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from ...broker import Settlement
from ...clock import Clock
from ...errors import BrokerError, ConnectionFailed
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Release, Retry
from . import wire
from .batches import Batches
from .holdings import Holdings, Receipt
from .names import FIFO, Names
from .options import MAX_LEASE

logger = logging.getLogger("penstock")

Item = Settlement[Receipt]


class Settler:
    """Applies outcomes for one owner."""

    def __init__(self, batches: Batches, names: Names, holdings: Holdings, clock: Clock, owner: str) -> None:
        self._batches, self._names, self._holdings = batches, names, holdings
        self._clock, self._owner = clock, owner

    async def settle(self, settlements: Sequence[Item]) -> list[Delivery[Receipt]]:
        """Apply; those whose lease was lost. Raises after everything that could be done is done."""
        now, lost = self._clock.monotonic(), list[Delivery[Receipt]]()
        copies: defaultdict[str, list[Item]] = defaultdict(list)
        shown: defaultdict[str, list[Item]] = defaultdict(list)
        removed: defaultdict[str, list[Item]] = defaultdict(list)
        for item in _each_once(settlements, lost):
            receipt = item.delivery.receipt
            if receipt.settled or receipt.deadline <= now:
                self._holdings.drop(receipt)
                lost.append(item.delivery)
            elif isinstance(item.outcome, Ack) or receipt.copied:
                removed[receipt.queue].append(item)
            elif isinstance(item.outcome, DeadLetter):
                copies[self._names.dead(item.delivery.source)].append(item)
            elif receipt.queue.endswith(FIFO) or receipt.raw is not None:  # what cannot be read is not rewritten
                shown[receipt.queue].append(item)
            else:
                copies[receipt.queue].append(item)
        errors = list[Exception]()
        for done in await asyncio.gather(*(self._copy(queue, items, errors) for queue, items in copies.items())):
            for item in done:
                removed[item.delivery.receipt.queue].append(item)
        await asyncio.gather(
            *(self._remove(queue, items, lost, errors) for queue, items in removed.items()),
            *(self._show(queue, items, lost, errors) for queue, items in shown.items()),
        )
        if errors:
            raise next((error for error in errors if isinstance(error, ConnectionFailed)), errors[0])
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> list[Delivery[Receipt]]:
        """Renew; those that are lost, settled, or as old as SQS lets a delivery become."""
        now, lost = self._clock.monotonic(), list[Delivery[Receipt]]()
        queues: defaultdict[str, list[tuple[Delivery[Receipt], int]]] = defaultdict(list)
        for delivery in deliveries:
            receipt = delivery.receipt
            seconds = min(math.ceil(lease), math.floor(receipt.limit - now))
            if receipt.settled or receipt.deadline <= now:
                lost.append(delivery)
                if not receipt.settled and receipt.limit <= now:
                    logger.error(
                        "%s was held for 12 hours, as long as SQS allows: it is handed out again", receipt.ident
                    )
            elif seconds > 0:
                queues[receipt.queue].append((delivery, seconds))

        async def run(queue: str, items: Sequence[tuple[Delivery[Receipt], int]]) -> None:
            handles = [delivery.receipt.handle for delivery, _ in items]
            done = await self._batches.show(queue, handles, [seconds for _, seconds in items])
            for (delivery, seconds), kept in zip(items, done, strict=True):
                if not kept or delivery.receipt.settled:
                    lost.append(delivery)
                else:
                    delivery.receipt.deadline = now + seconds

        await asyncio.gather(*(run(queue, items) for queue, items in queues.items()))
        return lost

    async def give_back(self, deliveries: Iterable[Delivery[Receipt]]) -> None:
        """As if they had never been fetched."""
        await self.settle([Settlement(delivery=delivery, outcome=Release()) for delivery in deliveries])

    async def _copy(self, queue: str, items: Sequence[Item], errors: list[Exception]) -> list[Item]:
        """Write the successors; the items whose successor is there."""
        now = self._clock.time()  # each dies a little later than the one before, so that they stay in order
        fates = await self._batches.send(queue, [self._successor(item, now + n * 2e-6) for n, item in enumerate(items)])
        for item, fate in zip(items, fates, strict=True):
            if isinstance(fate, str):
                item.delivery.receipt.copied = True
            else:
                errors.append(fate)
        return [item for item in items if item.delivery.receipt.copied]

    async def _remove(
        self, queue: str, items: Sequence[Item], lost: list[Delivery[Receipt]], errors: list[Exception]
    ) -> None:
        try:
            done = await self._batches.delete(queue, [item.delivery.receipt.handle for item in items])
        except BrokerError as error:
            errors.append(error)
            return
        for item, gone in zip(items, done, strict=True):
            self._holdings.drop(item.delivery.receipt)
            if not gone:
                lost.append(item.delivery)

    async def _show(
        self, queue: str, items: Sequence[Item], lost: list[Delivery[Receipt]], errors: list[Exception]
    ) -> None:
        """Retries and releases of a FIFO queue: visible again after their delay, and nothing is rewritten."""
        now = self._clock.monotonic()
        seconds = [
            min(math.ceil(_delay(item.outcome)), math.floor(item.delivery.receipt.limit - now)) for item in items
        ]
        try:
            done = await self._batches.show(queue, [item.delivery.receipt.handle for item in items], seconds)
        except BrokerError as error:
            errors.append(error)
            return
        for item, kept in zip(items, done, strict=True):
            receipt, outcome = item.delivery.receipt, item.outcome
            self._holdings.drop(receipt)
            if not kept:
                lost.append(item.delivery)
            elif isinstance(outcome, Release) or (isinstance(outcome, Retry) and not outcome.counts):
                self._holdings.refund(receipt.ident)

    def _successor(self, item: Item, now: float) -> dict[str, Any]:
        delivery, outcome = item.delivery, item.outcome
        message = delivery.message
        if isinstance(outcome, DeadLetter):
            dead = wire.obituary(delivery, outcome, self._owner, now, delivery.receipt.raw)
            return wire.buried(replace(message, attempt=delivery.attempt), dead, self._batches.most)
        delay, count = _delay(outcome), 0
        if isinstance(outcome, Release):
            count = max(delivery.count - 1, 0)
        else:
            counts = isinstance(outcome, Retry) and outcome.counts
            attempt = delivery.attempt + 1 if counts else message.attempt
            message = replace(message, attempt=attempt, enqueued_at=now)
        return wire.delayed(message, delay, now, count=count)


def limit_from(received: float) -> float:
    """Up to when a message received then can be held. A little less than SQS allows: its clock began later."""
    return received + MAX_LEASE - 1


def _delay(outcome: Any) -> float:
    delay: float = outcome.delay or 0.0
    return delay


def _each_once(settlements: Sequence[Item], lost: list[Delivery[Receipt]]) -> list[Item]:
    """The items; of those that name one receipt twice, only the first counts."""
    seen, found = set[str](), list[Item]()
    for item in settlements:
        if item.delivery.receipt.handle in seen:
            lost.append(item.delivery)
        else:
            seen.add(item.delivery.receipt.handle)
            found.append(item)
    return found
