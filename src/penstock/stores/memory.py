"""Idempotency keys, budgets and tables in this process's memory: for tests and single-process programs."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from msgspec import UNSET, UnsetType

from ..clock import SYSTEM_CLOCK, Clock
from ..store import Claim, Grant, charged


class MemoryStore:
    """See ``penstock.store.Store``. Keys whose time is over are dropped as others come in."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._keys: dict[str, tuple[float, str | None]] = {}  # expires, owner (None: done)
        self._expiry: list[tuple[float, str]] = []
        self._tables: dict[str, dict[str, bytes]] = {}
        self._spent: dict[str, dict[int, int]] = {}

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        found = self._get(key)
        if found is None or found[1] == owner:
            self._put(key, owner, ttl)
            return Claim.NEW
        return Claim.DONE if found[1] is None else Claim.HELD

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        if not self._owns(key, owner):
            return False
        self._put(key, owner, ttl)
        return True

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        found = self._get(key)
        if found is not None and found[1] not in {owner, None}:
            return False
        self._put(key, None, ttl)
        return True

    async def release(self, key: str, owner: str) -> bool:
        if not self._owns(key, owner):
            return False
        del self._keys[key]
        return True

    async def close(self) -> None: ...

    async def set_if_absent(self, key: str, ttl: float) -> bool:
        """The producer's cache hook."""
        if self._get(key) is not None:
            return False
        self._put(key, None, ttl)
        return True

    async def forget(self, key: str) -> None:
        """Take a key of the cache hook back."""
        self._keys.pop(key, None)

    async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
        spent = self._spent.get(name, {})
        grant, self._spent[name] = charged(spent, self._clock.time(), limit=limit, window=window, wanted=wanted)
        return grant

    async def rows(self, table: str) -> Mapping[str, bytes]:
        return dict(self._tables.get(table, {}))

    async def put(self, table: str, key: str, value: bytes | None, expected: bytes | UnsetType | None = UNSET) -> bool:
        rows = self._tables.setdefault(table, {})
        if expected is not UNSET and rows.get(key) != expected:
            return False
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
        return True

    def _owns(self, key: str, owner: str) -> bool:
        found = self._get(key)
        return found is not None and found[1] == owner

    def _get(self, key: str) -> tuple[float, str | None] | None:
        found = self._keys.get(key)
        return found if found is not None and found[0] > self._clock.time() else None

    def _put(self, key: str, owner: str | None, ttl: float) -> None:
        now = self._clock.time()
        while self._expiry and self._expiry[0][0] <= now:
            _, old = heapq.heappop(self._expiry)
            if old in self._keys and self._keys[old][0] <= now:
                del self._keys[old]
        self._keys[key] = (now + ttl, owner)
        heapq.heappush(self._expiry, (now + ttl, key))
