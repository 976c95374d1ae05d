"""Small state beside a broker: which keys have been done, what has been spent. It must never become a second broker."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, UnsetType


class Claim(Enum):
    """The answer to ``reserve``."""

    NEW = "new"  #: yours now: do the work, then ``complete`` or ``release``
    HELD = "held"  #: somebody else is at it
    DONE = "done"  #: it has been done


class Store(Protocol):
    """Remembers keys as reserved or done. Every method is one atomic step and safe to repeat.

    ``owner`` is the fencing token: only the owner of a reservation renews, completes or releases it.
    Raises ``ConnectionFailed`` and ``BrokerError``; each call has a deadline.
    """

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        """Reserve ``key`` for ``ttl`` seconds. A reservation by the same owner is renewed and answers ``NEW``."""
        ...

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        """Prolong a reservation; false if it is no longer this owner's."""
        ...

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        """Mark as done for ``ttl`` seconds; false, and nothing changed, if the key is reserved by somebody else."""
        ...

    async def release(self, key: str, owner: str) -> bool:
        """Forget the reservation; false if it is no longer this owner's."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        ...


class IdempotencyCache(Protocol):
    """The smallest hook for a producer: somebody else's cache."""

    async def set_if_absent(self, key: str, ttl: float) -> bool:
        """True if ``key`` was not there and is now, for ``ttl`` seconds."""
        ...


@runtime_checkable
class ForgetfulCache(IdempotencyCache, Protocol):
    """A cache that can also take a key back: then a send that failed can be tried again."""

    async def forget(self, key: str) -> None:
        """Remove ``key``."""
        ...


class Grant(msgspec.Struct, frozen=True):
    """What a budget gave, and what is left. ``retry_after``: seconds until there may be more, 0 if there is some."""

    count: int
    left: int
    retry_after: float


SLICES = 50  # parts of a window that are counted each for itself


def charged(
    spent: Mapping[int, int], now: float, *, limit: int, window: float, wanted: int
) -> tuple[Grant, dict[int, int]]:
    """What a budget gives of which so much was spent in each slice, and what is spent then."""
    width = window / SLICES
    current, oldest = int(now / width), int((now - window) / width)
    kept = {each: count for each, count in spent.items() if each >= oldest and count}
    free = max(limit - sum(kept.values()), 0)
    count = min(wanted, free)
    if count:
        kept[current] = kept.get(current, 0) + count
    retry_after = 0.0 if free > count else (min(kept) + 1) * width + window - now
    return Grant(count, free - count, retry_after), kept


@runtime_checkable
class SupportsBudgets(Protocol):
    """Counts what is spent, for everybody who uses the store: the state of rate limits.

    A window is counted in ``SLICES``: what was spent in a slice counts until all of the slice is out of the window. So
    the limit holds in every window of that length, and what becomes free comes at most a slice late.
    """

    async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
        """Take up to ``wanted``, 0 to see what is left, of the ``limit`` that may be spent in any ``window`` seconds.

        One atomic step. Not idempotent: after ``ConnectionFailed`` it may have been spent.
        """
        ...


@runtime_checkable
class SupportsTables(Protocol):
    """Keeps small tables of texts, such as the schedules of recurring jobs."""

    async def rows(self, table: str) -> Mapping[str, bytes]:
        """Everything in a table, by key."""
        ...

    async def put(self, table: str, key: str, value: bytes | None, expected: bytes | UnsetType | None = UNSET) -> bool:
        """Set a row, or with ``None`` remove it; false, and nothing done, if it is not as ``expected`` (``None``: absent).

        One atomic step.
        """
        ...
