"""Small state beside a broker: which keys have been done. It must never become a second broker."""

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable


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
