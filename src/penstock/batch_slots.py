"""Slots whose handlers take many messages at once: one batch occupies one slot.

One slot at a time gathers: it waits until there is enough for a batch, or the first message has waited long enough, and
leaves the messages in the ledger's queue meanwhile, so that what is lost or given back is simply not there any more. What
has been handed over before, and so may be what kills workers, makes a batch by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .batches import Batch, BatchExecutor
from .clock import Clock, wait_until
from .context import Context
from .ledger import Ledger
from .message import Delivery
from .outcome import Ack, DeadLetter, Outcome, Release, Retry
from .registry import Route
from .slots import RELEASE, Slots
from .telemetry import Telemetry


@dataclass(slots=True)
class Portion:
    """The part of a batch that one handler gets."""

    route: Route
    items: list[tuple[Delivery[Any], Context, Any]]


class BatchSlots(Slots):
    """``concurrency`` batches at once."""

    def __init__(
        self,
        ledger: Ledger,
        executor: BatchExecutor,
        concurrency: int,
        clock: Clock,
        telemetry: Telemetry,
        batch: Batch,
    ) -> None:
        super().__init__(ledger, executor, concurrency, clock, telemetry)
        self._batches, self._batch = executor, batch
        self._gathering = False
        self._full = asyncio.Event()

    def wake(self) -> None:
        """There is work: for the slot that gathers, if there is one, else for one that rests."""
        ledger = self._ledger
        if self._gathering and len(ledger.waiting) >= self._batch.size:
            self._full.set()
        if not self._gathering or (ledger.suspects and self._suspect is None):
            super().wake()

    async def _slot(self) -> None:
        ledger = self._ledger
        while True:
            taken = await self._take()
            if ledger.waiting or ledger.suspects:
                self.wake()
            portions = deque(self._portions(taken))
            try:
                while portions:
                    await self._run(portions.popleft())
            finally:
                for portion in portions:  # should this slot be cancelled
                    self._finish(portion.items, [RELEASE] * len(portion.items))
                if self._suspect is not None and self._suspect in taken:
                    self._suspect = None
            await self._yield()

    async def _take(self) -> Sequence[Delivery[Any]]:
        """The messages of the next batch."""
        ledger, batch = self._ledger, self._batch
        while True:
            if ledger.suspects and self._suspect is None:
                self._suspect = ledger.suspects.popleft()
                return (self._suspect,)
            if not ledger.waiting or self._gathering:
                await self._rest()
                continue
            self._gathering = True
            try:
                if len(ledger.waiting) < batch.size and batch.wait:
                    self._full.clear()
                    await wait_until(self._full, self._clock, batch.wait)
            finally:
                self._gathering = False
            if ledger.waiting:
                return [ledger.waiting.popleft() for _ in range(min(batch.size, len(ledger.waiting)))]

    def _portions(self, taken: Sequence[Delivery[Any]]) -> Sequence[Portion]:
        """What of it may be run, for each handler; what may not has its outcome at once."""
        ledger, found = self._ledger, dict[int, Portion]()
        for delivery in taken:
            ident = delivery.message.id
            if ident not in ledger.held:  # its lease was lost while it waited
                continue
            began = self._begin(delivery) if self._telemetry else 0.0
            admitted = self._batches.admit(delivery)
            if isinstance(admitted, Ack | Retry | DeadLetter | Release):
                ledger.finish(delivery, admitted)
                if self._telemetry:
                    self._end(delivery, admitted, began)
                continue
            route, payload = admitted
            context = ledger.contexts[ident] = self._batches.context(delivery)
            found.setdefault(id(route), Portion(route, [])).items.append((delivery, context, payload))
        return list(found.values())

    async def _run(self, portion: Portion) -> None:
        contexts = self._ledger.contexts
        # What was lost while an earlier portion ran is not run
        items = [item for item in portion.items if contexts.get(item[0].message.id) is item[1]]
        if not items:
            return
        began = self._clock.monotonic() if self._telemetry else 0.0
        outcomes: list[Outcome] = [RELEASE] * len(items)  # should this slot be cancelled
        self.running += 1
        try:
            payloads = [payload for _, _, payload in items]
            outcomes = await self._batches.execute_all(portion.route, payloads, [context for _, context, _ in items])
        finally:
            self.running -= 1
            self._finish(items, outcomes)
        if self._telemetry:
            for (delivery, _, _), outcome in zip(items, outcomes, strict=True):
                self._end(delivery, outcome, began)

    def _finish(self, items: Sequence[tuple[Delivery[Any], Context, Any]], outcomes: Sequence[Outcome]) -> None:
        ledger = self._ledger
        for (delivery, context, _), outcome in zip(items, outcomes, strict=True):
            ident = delivery.message.id
            if ledger.contexts.get(ident) is context:  # else the lease of this very execution was lost
                del ledger.contexts[ident]
                ledger.finish(delivery, outcome)
