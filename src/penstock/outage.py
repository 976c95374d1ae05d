"""One outage, one log line: who failed first, since when, how long to wait before the next try, and when it was over."""

from __future__ import annotations

import logging
import random
import threading

from .clock import Clock
from .errors import BrokerError
from .telemetry import Outage, Telemetry

logger = logging.getLogger("penstock")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between tries


class Outages:
    """Who cannot reach one broker now. The first of them tells it, and the last one that can again; on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down: set[OutageLog] = set()
        self._since = 0.0

    def begins(self, role: OutageLog, now: float) -> bool:
        """One more cannot; whether it is the first."""
        with self._lock:
            if not self._down:
                self._since = now
            self._down.add(role)
            return len(self._down) == 1

    def ends(self, role: OutageLog, now: float) -> float | None:
        """One can again; the seconds that it lasted, if that was the last one."""
        with self._lock:
            self._down.discard(role)
            return None if self._down else now - self._since


class OutageLog:
    """Keeps the state of one role's line to its broker. ``longest``: seconds between two tries, at most.

    ``outages``: shared by all roles of a worker that use the same broker, so that one line is enough.
    """

    def __init__(
        self,
        role: str,
        stream: str,
        clock: Clock,
        dice: random.Random,
        telemetry: Telemetry,
        longest: float = LONGEST_PAUSE,
        outages: Outages | None = None,
    ) -> None:
        self._outages = outages or Outages()
        self._role, self._stream, self._clock, self._dice, self._telemetry = role, stream, clock, dice, telemetry
        self._longest = longest
        self._since: float | None = None
        self._tries = 0
        self.error = ""  # what the last failure said

    @property
    def down(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    def failed(self, error: Exception) -> float:
        """Note a failure; seconds to wait before the next try (with jitter, so that a crowd does not come back at once)."""
        self.error = str(error)
        if self._since is None:
            self._since = self._clock.monotonic()
            extra = {"stream": self._stream, "role": self._role}
            first = self._outages.begins(self, self._since)
            if not isinstance(error, BrokerError):
                text = "%s of %s: failed unexpectedly, trying again: %s"
                logger.error(text, self._role, self._stream, error, extra=extra, exc_info=error)
            else:
                level = logging.ERROR if first else logging.DEBUG
                text = "%s of %s: broker unavailable, trying again: %s"
                logger.log(level, text, self._role, self._stream, error, extra=extra)
            if self._telemetry:
                self._telemetry.emit(Outage(self._role, self._stream, ended=False, seconds=0.0, error=str(error)))
        pause = min(self._longest, FIRST_PAUSE * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        return pause * self._dice.uniform(0.5, 1.0)

    def abandoned(self) -> None:
        """Nobody tries any more: this role does not know whether the broker is back, and keeps nobody waiting for it."""
        if self._since is None:
            return
        now = self._clock.monotonic()
        seconds = now - self._since
        self._outages.ends(self, now)
        self._since, self._tries = None, 0
        extra = {"stream": self._stream, "role": self._role}
        logger.debug(
            "%s of %s: tries no more, after %.1f s without an answer", self._role, self._stream, seconds, extra=extra
        )
        if self._telemetry:
            self._telemetry.emit(Outage(self._role, self._stream, ended=True, seconds=seconds))

    def recovered(self) -> None:
        """Note a success."""
        if self._since is None:
            return
        now = self._clock.monotonic()
        seconds, lasted = now - self._since, self._outages.ends(self, now)
        self._since, self._tries = None, 0
        extra = {"stream": self._stream, "role": self._role}
        level = logging.DEBUG if lasted is None else logging.WARNING
        logger.log(
            level, "%s of %s: broker back after %.1f s", self._role, self._stream, lasted or seconds, extra=extra
        )
        if self._telemetry:
            self._telemetry.emit(Outage(self._role, self._stream, ended=True, seconds=seconds))
