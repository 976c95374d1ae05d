"""Exactly once at the subscriber: a payload, or a key, that a group has handled is not handled again for a while.

The names are Rotif's, so that consumers in TypeScript of the same group know what we have done, and we what they have. A
message that comes again because it failed is not a duplicate of itself: it is remembered when it is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ..clock import Clock
from ..errors import EncodeError
from ..message import Envelope
from ..middleware.deduplicate import Deduplicate
from ..store import Claim, Store
from .fingerprint import fingerprint

EXACTLY_ONCE, DEDUP_TTL = "exactlyOnce", "dedupTTL"


class _Later:
    """A store that is opened when it is needed: most subscriptions never do."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        return await self._store().reserve(key, owner, ttl)

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        return await self._store().renew(key, owner, ttl)

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        return await self._store().complete(key, owner, ttl)

    async def release(self, key: str, owner: str) -> bool:
        return await self._store().release(key, owner)

    async def close(self) -> None: ...


class OncePerGroup(Deduplicate):
    """``always``: for every message, not only for those whose publisher asks for it."""

    def __init__(
        self, store: Callable[[], Store], group: str, ttl: float, always: Callable[[], bool], clock: Clock
    ) -> None:
        super().__init__(_Later(store), pending=60.0, done=max(ttl, 0.001), pause=0.1, clock=clock)
        self._group, self._ttl, self._always = group, ttl, always

    def name_of(self, envelope: Envelope[Any]) -> str | None:
        message = envelope.message
        if not self._always() and not message.headers.get(EXACTLY_ONCE):
            return None
        key = message.key or _hash(message.body)
        return f"rotif:dedup:{message.type}:{key}:{self._group}:*"

    def window(self, envelope: Envelope[Any]) -> float:
        """As long as the publisher would not publish it again, from the moment that it did; else from now on."""
        asked, at = envelope.message.headers.get(DEDUP_TTL), envelope.message.enqueued_at
        if not envelope.message.headers.get(EXACTLY_ONCE) or not isinstance(asked, int | float):
            return self._ttl
        passed = 0.0 if at is None else max(self._clock.time() - at, 0.0)
        # Rather a little shorter: the publisher's word is the first, and what it lets pass must not be swallowed here
        return max(asked - passed - min(1.0, asked / 10), 0.001)


def _hash(body: bytes) -> str:
    """Of what has no fingerprint, the hash of its text: it is to be handled all the same."""
    try:
        return fingerprint(body)
    except (EncodeError, ValueError, RecursionError):
        return hashlib.sha256(body).hexdigest()
