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


class Reclaimer:
    """``interval``: seconds between looks; ``most``: messages of one look; ``accept`` takes what was reclaimed."""

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
    ) -> None:
        self.stream = subscription.source
        self._broker, self._subscription, self._ledger = broker, subscription, ledger
        self._accept, self._room, self._telemetry = accept, room, telemetry
        self._interval, self._most = interval, most

    async def run_once(self) -> float:
        """Take over as much as there is room for."""
        innocent = await self._take(min(self._most, self._room()), below=SUSPECT_COUNT - 1)
        if not self._ledger.suspects:
            await self._take(min(1, self._room()), above=SUSPECT_COUNT - 2)
        if isinstance(self._broker, SupportsGhosts):
            self._report(await self._broker.ghosts(self._subscription))
        return 0.0 if innocent and innocent >= self._most else self._interval

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
