"""The scheduler: moves delayed messages and retries that are due back to their stream.

Runs inside every worker, and standalone as ``RetryDaemon``. Any number may run at once: each move is atomic.
"""

from __future__ import annotations

from ..broker import SupportsSchedule
from ..telemetry import Promoted, Telemetry


class Scheduler:
    """``tick``: longest pause in seconds. It wakes earlier for a message that is due earlier."""

    name = "scheduler"
    tick = 0.25

    def __init__(
        self,
        broker: SupportsSchedule,
        stream: str,
        telemetry: Telemetry,
        *,
        delayed: str | None = None,
        max_batch: int = 256,
        tick: float = tick,
    ) -> None:
        self.stream = stream
        self._broker, self._telemetry, self._delayed = broker, telemetry, delayed
        self._max_batch, self._tick = max_batch, tick

    async def run_once(self) -> float:
        """Move one batch."""
        moved = await self._broker.promote_due(self.stream, self._max_batch, delayed=self._delayed)
        if moved.count and self._telemetry:
            self._telemetry.emit(Promoted(self.stream, moved.count))
        if moved.count >= self._max_batch:
            return 0.0
        return self._tick if moved.next_due is None else min(self._tick, max(0.001, moved.next_due))
