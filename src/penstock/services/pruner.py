"""The pruner: sweeps up after workers that are long gone."""

from __future__ import annotations

from ..broker import Subscription, SupportsTrim


class Pruner:
    """``interval``: seconds between sweeps."""

    name = "pruner"

    def __init__(self, broker: SupportsTrim, subscription: Subscription, *, interval: float = 60.0) -> None:
        self.stream = subscription.source
        self._broker, self._subscription, self._interval = broker, subscription, interval

    async def run_once(self) -> float:
        """One sweep."""
        await self._broker.trim(self._subscription)
        return self._interval
