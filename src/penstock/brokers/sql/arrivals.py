"""Waiting for messages without asking all the time.

Publishers in this process ring at once. Those in other processes are noticed by asking the database for its change
number, often while there is something going on and up to four times a second when there is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from weakref import WeakValueDictionary

from ...clock import Clock, wait_until

_SHORTEST = 0.005
_LONGEST = 0.3
_EASE = 16  # a pause may last this fraction of the time for which nothing happened


class Arrivals:
    """The bell of one database in this process. ``rung`` counts; threads and loops may share it."""

    def __init__(self) -> None:
        self.rung = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def ring(self) -> None:
        """Something may have become available."""
        self.rung += 1
        for loop, event in tuple(self._waiting):
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(event.set)

    async def wait(self, seen: int, clock: Clock, seconds: float) -> None:
        """Wait until it has rung more often than ``seen``, at most ``seconds``."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(waiter)
        try:
            if self.rung == seen:
                await wait_until(waiter[1], clock, seconds)
        finally:
            self._waiting.discard(waiter)


_bells: WeakValueDictionary[str, Arrivals] = WeakValueDictionary()
_lock = threading.Lock()


def arrivals(path: str | None) -> Arrivals:
    """The bell that all brokers of this process on this file share; a database in memory has its own."""
    if path is None:
        return Arrivals()
    with _lock:
        return _bells.setdefault(path, Arrivals())


class Watch:
    """What one subscription knew when it last looked, and when to look again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active_at = clock.monotonic()
        self._asked_at = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._due: float | None = None
        self.hot = True

    @property
    def pause(self) -> float:
        """Seconds until it is worth asking the database again."""
        quiet = self._clock.monotonic() - self._active_at
        pause = min(max(quiet / _EASE, _SHORTEST), _LONGEST)
        return pause if self._due is None else max(min(pause, self._due - self._clock.time()), 0.0)

    def fresh(self, rung: int) -> bool:
        """Whether the database was asked a moment ago and nobody in this process has rung since."""
        asked = self._clock.monotonic() - self._asked_at < self.pause / 2
        return asked and self._seen is not None and self._seen[1] == rung

    def found(self) -> None:
        """There were messages: there may be more."""
        self._active_at, self.hot = self._clock.monotonic(), True

    def empty(self, seen: tuple[int, int], due: float | None) -> None:
        """Nothing to be had at the state ``seen``; the next message that waits is ``due``."""
        self._seen, self._due, self.hot = seen, due, False
        self._asked_at = self._clock.monotonic()

    def unchanged(self, seen: tuple[int, int]) -> bool:
        """Whether looking again is pointless."""
        self._asked_at = self._clock.monotonic()
        return seen == self._seen and (self._due is None or self._due > self._clock.time())
