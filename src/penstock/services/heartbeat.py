"""The heartbeat: tells the broker, and through it everybody who looks, that this worker lives and what it does."""

from __future__ import annotations

from collections.abc import Callable

from ..broker import Presence, SupportsPresence


class Heartbeat:
    """``interval``: seconds between beats; a worker silent for four of them is taken for dead by who looks."""

    name = "heartbeat"
    stream = "workers"

    def __init__(self, broker: SupportsPresence, presence: Callable[[], Presence], *, interval: float = 5.0) -> None:
        self._broker, self._presence, self._interval = broker, presence, interval

    async def run_once(self) -> float:
        """One beat."""
        await self._broker.beat(self._presence(), self._interval * 4)
        return self._interval
