"""The pause watch: sees to it that what somebody paused at the broker is paused in this worker, and goes on again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..broker import SupportsPause


class PauseWatch:
    """``interval``: seconds between two looks. ``tell`` gets the names of the streams that are paused."""

    name = "pause watch"
    stream = "streams"

    def __init__(
        self, broker: SupportsPause, tell: Callable[[frozenset[str]], Awaitable[None]], *, interval: float = 2.0
    ) -> None:
        self._broker, self._tell, self._interval = broker, tell, interval

    async def run_once(self) -> float:
        """One look."""
        await self._tell(await self._broker.paused())
        return self._interval
