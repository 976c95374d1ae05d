"""Events that were not sent: the newest thousand, until somebody looks at them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from ..clock import Clock
from .handlers import ANY_BODY
from .publisher import Prepared

MAX_FAILED = 1000


class FailedEvent(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An event that was not sent, as far as is known. ``failed_at``: seconds since the epoch."""

    event_type: str
    error: Exception
    failed_at: float
    prepared: Prepared

    @property
    def id(self) -> str:
        """The event's id. It keeps it when it is sent again, so that consumers know it."""
        return self.prepared.id

    @property
    def timestamp(self) -> str:
        """When it was added."""
        return str(self.prepared.outgoing.message.headers["timestamp"])

    @property
    def body(self) -> Any:
        """What it says."""
        return ANY_BODY.decode(self.prepared.outgoing.message.body)


class Failures:
    """The list of them. ``dropped``: how many were forgotten, because there were too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[FailedEvent] = deque()
        self._watching: list[dict[str, Exception]] = []
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events)

    def note(self, chunk: Sequence[Prepared], fates: Sequence[str | Exception]) -> None:
        """Keep those of a batch whose fate is an error."""
        now = self._clock.time()
        for prepared, fate in zip(chunk, fates, strict=True):
            if not isinstance(fate, Exception):
                continue
            failed = FailedEvent(event_type=prepared.event_type, error=fate, failed_at=now, prepared=prepared)
            self._events.append(failed)
            for lost in self._watching:
                lost[prepared.id] = fate
            if len(self._events) > MAX_FAILED:
                self._events.popleft()
                self.dropped += 1

    @contextmanager
    def watched(self) -> Generator[Mapping[str, Exception]]:
        """What fails meanwhile: the error of each, by the event's id. All of them, however many."""
        lost: dict[str, Exception] = {}
        self._watching.append(lost)
        try:
            yield lost
        finally:
            self._watching = [each for each in self._watching if each is not lost]

    def view(self) -> list[FailedEvent]:
        """Oldest first."""
        return list(self._events)

    def take(self) -> list[FailedEvent]:
        """All of them, which are forgotten here."""
        events = list(self._events)
        self._events.clear()
        return events

    def forget_older(self, max_age: float) -> int:
        """Forget those that failed more than so many seconds ago; how many."""
        oldest, count = self._clock.time() - max_age, 0
        while self._events and self._events[0].failed_at < oldest:
            self._events.popleft()
            count += 1
        return count
