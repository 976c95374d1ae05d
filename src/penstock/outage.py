"""One outage, one log line: who failed, since when, how long to wait before the next try, and when it was over."""

from __future__ import annotations

import logging
import random

from .clock import Clock
from .errors import BrokerError
from .telemetry import Outage, Telemetry

logger = logging.getLogger("penstock")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between tries


class OutageLog:
    """Keeps the state of one role's line to its broker. ``longest``: seconds between two tries, at most."""

    def __init__(
        self,
        role: str,
        stream: str,
        clock: Clock,
        dice: random.Random,
        telemetry: Telemetry,
        longest: float = LONGEST_PAUSE,
    ) -> None:
        self._role, self._stream, self._clock, self._dice, self._telemetry = role, stream, clock, dice, telemetry
        self._longest = longest
        self._since: float | None = None
        self._tries = 0

    @property
    def down(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    def failed(self, error: Exception) -> float:
        """Note a failure; seconds to wait before the next try (with jitter, so that a crowd does not come back at once)."""
        if self._since is None:
            self._since = self._clock.monotonic()
            extra = {"stream": self._stream, "role": self._role}
            expected = isinstance(error, BrokerError)
            what = "broker unavailable" if expected else "failed unexpectedly"
            text, why = "%s of %s: %s, trying again: %s", None if expected else error
            logger.error(text, self._role, self._stream, what, error, extra=extra, exc_info=why)
            if self._telemetry:
                self._telemetry.emit(Outage(self._role, self._stream, ended=False, seconds=0.0, error=str(error)))
        pause = min(self._longest, FIRST_PAUSE * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        return pause * self._dice.uniform(0.5, 1.0)

    def recovered(self) -> None:
        """Note a success."""
        if self._since is None:
            return
        seconds = self._clock.monotonic() - self._since
        self._since, self._tries = None, 0
        extra = {"stream": self._stream, "role": self._role}
        logger.warning("%s of %s: broker back after %.1f s", self._role, self._stream, seconds, extra=extra)
        if self._telemetry:
            self._telemetry.emit(Outage(self._role, self._stream, ended=True, seconds=seconds))
