"""What is done beside a subscription's consumer: its binding is kept, old dead letters are swept."""

from __future__ import annotations

from ..bindings import SupportsBindings
from ..clock import Clock
from .dead_letters import Cleanup, DeadLetters


class BindingKeeper:
    """Binds again now and then: a server that forgot everything, or others who removed the pattern, cost little.

    ``interval``: seconds between two times.
    """

    name = "binding keeper"

    def __init__(self, broker: SupportsBindings, pattern: str, group: str, *, interval: float = 5.0) -> None:
        self.stream = pattern
        self._broker, self._group, self._interval = broker, group, interval

    async def run_once(self) -> float:
        """Bind."""
        await self._broker.bind(self.stream, self._group)
        return self._interval


class Sweeper:
    """Sweeps the dead letters of all patterns; beside each subscription the same one, so that somebody always does."""

    name, stream = "dead letter sweeper", "dead letters"

    def __init__(self, letters: DeadLetters, cleanup: Cleanup, clock: Clock) -> None:
        self._letters, self._cleanup, self._clock = letters, cleanup, clock
        self._next = clock.monotonic() + cleanup.interval

    async def run_once(self) -> float:
        """Sweep if it is time."""
        now = self._clock.monotonic()
        if now >= self._next:
            self._next = now + self._cleanup.interval
            await self._letters.cleanup(self._cleanup)
        return max(self._next - now, 0.05)
