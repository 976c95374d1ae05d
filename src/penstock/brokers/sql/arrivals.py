"""Waiting for messages without asking all the time.

Publishers in this process ring at once. Those in other processes are heard where the database can tell (LISTEN), else
noticed by asking: often while there is something going on, and seldom when there is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from ...clock import Clock, wait_until


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds between two looks: ``shortest`` after something happened, then a fraction of the quiet time, at most ``longest``."""

    shortest: float
    longest: float
    ease: float = 16.0


SQLITE = Patience(0.005, 0.3)  # looking is asking for a change number, which costs nothing
ASKING = Patience(0.01, 0.5)  # looking is a statement on a server
LISTENING = Patience(2.0, 2.0)  # the server tells; looking is for what was missed


class Arrivals:
    """The bell of one database in this process, for each queue. Threads and loops may share it."""

    def __init__(self) -> None:
        self._rung: defaultdict[str, int] = defaultdict(int)
        self._all = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event, Sequence[str]]] = set()

    def rung(self, queues: Sequence[str]) -> int:
        """How often it has rung for these."""
        return self._all + sum(self._rung.get(queue, 0) for queue in queues)

    def ring(self, queues: Iterable[str] | None = None) -> None:
        """Something may have become available, in these queues or in any."""
        some = None if queues is None else set(queues)
        if some is None:
            self._all += 1
        else:
            for queue in some:
                self._rung[queue] += 1
        for loop, event, names in tuple(self._waiting):
            if some is None or not some.isdisjoint(names):
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(event.set)

    async def wait(self, queues: Sequence[str], seen: int, clock: Clock, seconds: float) -> None:
        """Wait until it has rung more often than ``seen``, at most ``seconds``."""
        waiter = (asyncio.get_running_loop(), asyncio.Event(), queues)
        self._waiting.add(waiter)
        try:
            if self.rung(queues) == seen:
                await wait_until(waiter[1], clock, seconds)
        finally:
            self._waiting.discard(waiter)


_bells: WeakValueDictionary[str, Arrivals] = WeakValueDictionary()
_lock = threading.Lock()


def arrivals(place: str | None) -> Arrivals:
    """The bell that all brokers of this process on this database share; a database in memory has its own."""
    if place is None:
        return Arrivals()
    with _lock:
        return _bells.setdefault(place, Arrivals())


class Watch:
    """What one subscription knew when it last looked, and when to look again."""

    def __init__(self, clock: Clock, patience: Callable[[], Patience]) -> None:
        self._clock, self._patience = clock, patience
        self._active_at = clock.monotonic()
        self._asked_at = float("-inf")
        self._seen: tuple[int | None, int] | None = None
        self._due: float | None = None
        self.hot = True

    @property
    def pause(self) -> float:
        """Seconds until it is worth asking the database again."""
        now, patience = self._clock.monotonic(), self._patience()
        pause = min(max((now - self._active_at) / patience.ease, patience.shortest), patience.longest)
        return pause if self._due is None else max(min(pause, self._due - now), 0.0)

    def fresh(self, rung: int) -> bool:
        """Whether the database was asked a moment ago and nobody in this process has rung since."""
        asked = self._clock.monotonic() - self._asked_at < self.pause / 2
        return asked and self._seen is not None and self._seen[1] == rung

    def found(self) -> None:
        """There were messages: there may be more."""
        self._active_at, self.hot = self._clock.monotonic(), True

    def empty(self, seen: tuple[int | None, int], seconds: float | None) -> None:
        """Nothing to be had at the state ``seen``; the next message that waits is due in ``seconds``."""
        self._asked_at = self._clock.monotonic()
        self._due = None if seconds is None else self._asked_at + seconds
        self._seen, self.hot = seen, False

    def unchanged(self, seen: tuple[int | None, int]) -> bool:
        """Whether looking again is pointless."""
        self._asked_at = self._clock.monotonic()
        same = seen[0] is not None and seen == self._seen
        return same and (self._due is None or self._due > self._asked_at)
