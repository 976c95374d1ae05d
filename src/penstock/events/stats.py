"""What publishers and consumers of events count. All of it is bounded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

MOST_NAMES = 1000
OTHERS = "(others)"


class Tally:
    """Counts by name; names beyond the first ``MOST_NAMES`` are counted together."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        counts = self._counts
        if name not in counts and len(counts) >= MOST_NAMES:
            name = OTHERS
        counts[name] = counts.get(name, 0) + count

    def view(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._counts))


class PublisherStats(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a publisher. ``average_latency``: seconds of one round trip to a broker. Times are since the epoch."""

    total_messages_sent: int
    by_type: Mapping[str, int]
    by_transport: Mapping[str, int]
    total_batches_sent: int
    failed_messages: int
    average_latency: float
    last_error: str | None
    last_error_time: float | None


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a batched publisher holds. ``total_messages`` wait or are under way, ``dropped_failures`` were forgotten."""

    queue_count: int
    total_messages: int
    failed_message_count: int
    active_batches: int
    dropped_failures: int


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a consumer is. Times are seconds since the epoch, ``average_processing_time`` seconds.

    ``pending_messages`` are delivered to the group and not settled; ``lag`` are not yet delivered, ``None`` if the
    broker cannot say; ``unhandled`` had no handler and were acked; ``poison_messages`` became dead letters unrun.
    """

    is_connected: bool
    pending_messages: int | None
    lag: int | None
    last_processed_id: str | None
    error_count: int
    retry_count: int
    dead_letter_count: int
    total_messages_received: int
    by_type: Mapping[str, int]
    by_topic: Mapping[str, int]
    failed_messages: int
    poison_messages: int
    unhandled: int
    average_processing_time: float
    last_message_time: float | None
    last_error: str | None
    last_error_time: float | None


class Observed:
    """What a consumer's handlers have seen since it was made."""

    __slots__ = (
        *("failed", "last_error", "last_error_time", "last_id", "last_time"),
        *("_lock", "poison", "received", "seconds", "types", "unhandled"),
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()  # handlers that are plain functions run in threads
        self.received = self.failed = self.poison = self.unhandled = 0
        self.seconds = 0.0
        self.types = Tally()
        self.last_id: str | None = None
        self.last_time: float | None = None
        self.last_error: str | None = None
        self.last_error_time: float | None = None

    def done(self, ident: str, type_: str, seconds: float, now: float) -> None:
        """A handler came to its end."""
        with self._lock:
            self.received += 1
            self.seconds += seconds
            self.types.add(type_)
            self.last_id, self.last_time = ident, now

    def went_wrong(self, error: BaseException | None, now: float) -> None:
        """It failed."""
        with self._lock:
            self.failed += 1
            self.note(error, now)

    def note(self, error: Any, now: float) -> None:
        """Remember an error."""
        if error is not None:
            self.last_error, self.last_error_time = f"{type(error).__name__}: {error}"[:500], now
