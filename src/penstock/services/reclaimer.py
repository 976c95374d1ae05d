"""The reclaimer: takes over what dead or silent workers have left.

What has been handed over once goes back to full concurrency. What has outlived two owners, or has one execution left,
may be what kills them: it is taken one at a time, so that its neighbours do not pay for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..broker import Subscription, SupportsGhosts, SupportsReclaim
from ..ledger import SUSPECT_COUNT, Ledger
from ..message import Delivery
from ..telemetry import LostPayload, Reclaimed, Telemetry

logger = logging.getLogger("penstock")

SOON = (
    0.05  # seconds after one suspect until the next may be taken; longer while it runs, so that few looks are in vain
)


class Reclaimer:
    """``interval``: seconds between looks; ``most``: messages of one look; ``accept`` takes what was reclaimed.

    ``suspect_count``: what is handed over this often is taken only while no other such is held.
    """

    name = "reclaimer"

    def __init__(  # noqa: PLR0913 parts are wired once, by the consumer
        self,
        broker: SupportsReclaim[Any],
        subscription: Subscription,
        ledger: Ledger,
        accept: Callable[[Sequence[Delivery[Any]]], None],
        room: Callable[[], int],
        telemetry: Telemetry,
        *,
        interval: float = 1.0,
        most: int = 128,
        suspect_count: int = SUSPECT_COUNT,
    ) -> None:
        self.stream = subscription.source
        self._broker, self._subscription, self._ledger = broker, subscription, ledger
        self._accept, self._room, self._telemetry = accept, room, telemetry
        self._interval, self._most, self._suspect_count = interval, most, suspect_count
        self._pause = interval

    async def run_once(self) -> float:
        """Take over as much as there is room for."""
        innocent = await self._take(min(self._most, self._room()), below=self._suspect_count - 1)
        # Nor while one runs: it would take the other with it
        if any(delivery.count >= self._suspect_count for delivery in self._ledger.held.values()):
            self._pause = min(2 * self._pause, self._interval)
        else:
            taken = await self._take(min(1, self._room()), above=self._suspect_count - 2)
            self._pause = min(SOON, self._interval) if taken else self._interval
        if isinstance(self._broker, SupportsGhosts):
            self._report(await self._broker.ghosts(self._subscription))
        return 0.0 if innocent and innocent >= self._most else self._pause

    def _report(self, ghosts: int) -> None:
        """Tell of messages that somebody deleted under their owners' hands."""
        if not ghosts:
            return
        extra = {"stream": self.stream, "group": self._subscription.group}
        text = "payload lost: %d messages of %s were deleted while they were leased; they cannot be run again"
        logger.error(text, ghosts, self.stream, extra=extra)
        if self._telemetry:
            self._telemetry.emit(LostPayload(self.stream, self._subscription.group, ghosts))

    async def _take(self, limit: int, **bounds: int) -> int:
        if limit <= 0:
            return 0
        deliveries = await self._broker.reclaim(self._subscription, limit, **bounds)
        if deliveries:
            crashed = [d for d in deliveries if d.count > 1]
            self._ledger.counters.reclaimed += len(crashed)
            if crashed and self._telemetry:
                self._telemetry.emit(Reclaimed(self.stream, self._subscription.group, len(crashed)))
            self._accept(deliveries)
        return len(deliveries)
