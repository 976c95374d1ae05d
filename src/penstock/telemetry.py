"""What the engine tells about itself: a closed set of events, and the hub that hands them to listeners.

Events carry values, never messages' bodies. Without listeners nothing is built, timed or counted beyond a few
integers per batch. ``contrib.prometheus`` turns events into the metrics of the documentation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

logger = logging.getLogger("penstock")

OutcomeName: TypeAlias = Literal["ack", "retry", "dead", "release", "discard"]


class Published(msgspec.Struct, frozen=True):
    """``count`` messages of one type have been published."""

    stream: str
    type: str
    count: int


class PublishFailed(msgspec.Struct, frozen=True):
    """``count`` messages of one type were not published, as far as the broker says. Whoever sent them has the error."""

    stream: str
    type: str
    count: int


class Started(msgspec.Struct, frozen=True):
    """A handler is about to run. ``waited``: seconds since it was enqueued, if known."""

    stream: str
    group: str
    type: str
    waited: float | None


class Finished(msgspec.Struct, frozen=True):
    """A delivery has its outcome. ``seconds`` is the time from start to outcome; ``reason`` that of a
    dead letter or of what was discarded unrun.
    """

    stream: str
    group: str
    type: str
    id: str
    attempt: int
    outcome: OutcomeName
    seconds: float
    reason: str = ""


class LeaseLost(msgspec.Struct, frozen=True):
    """The lease of a delivery has passed to another worker: a duplicate execution is possible."""

    stream: str
    group: str
    type: str
    id: str


class Reclaimed(msgspec.Struct, frozen=True):
    """Deliveries of a dead or silent worker were taken over."""

    stream: str
    group: str
    count: int


class LostPayload(msgspec.Struct, frozen=True):
    """``count`` messages were deleted by somebody while they were leased or handed back: nobody will run them again."""

    stream: str
    group: str
    count: int


class Promoted(msgspec.Struct, frozen=True):
    """Delayed messages have become due."""

    stream: str
    count: int


class Outage(msgspec.Struct, frozen=True):
    """The broker became unreachable for a role (``ended`` false), or came back after ``seconds``."""

    role: str
    stream: str
    ended: bool
    seconds: float
    error: str = ""


Event: TypeAlias = (
    Published | PublishFailed | Started | Finished | LeaseLost | Reclaimed | LostPayload | Promoted | Outage
)
Listener: TypeAlias = Callable[[Event], None]


class Telemetry:
    """The hub. True if anybody listens; ``listeners`` is the same list for as long as it lives."""

    __slots__ = ("listeners",)

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def __bool__(self) -> bool:
        return bool(self.listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event, on the thread where it happens; returns how to stop that."""
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Hand an event to every listener. A listener that raises is logged and never disturbs the engine."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a telemetry listener failed on %s", type(event).__name__)


#: The hub that producers, consumers and workers use unless given another.
TELEMETRY = Telemetry()
