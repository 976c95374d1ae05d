"""Profiles of jobs that were run under a profiler, kept for a day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from .data import Data

PROFILES: Final = "profiles"
_FACTS: Final = ("started_at", "jid", "type", "token", "size", "elapsed")


class ProfileRecord:
    """What is known of one profile, and where it is. ``size`` in bytes, ``elapsed`` in seconds."""

    def __init__(self, data: Data, key: str, facts: list[bytes]) -> None:
        started, jid, kind, token, size, elapsed = (fact.decode() for fact in facts)
        self._data, self.key = data, key
        self.started_at = datetime.fromtimestamp(float(started), UTC)
        self.jid, self.type, self.token = jid, kind, token
        self.size, self.elapsed = int(size), float(elapsed)

    def __repr__(self) -> str:
        return f"<ProfileRecord {self.key} {self.type} {self.elapsed} s>"

    async def data(self) -> bytes | None:
        """The profile itself, for the Firefox Profiler: JSON, compressed by gzip. ``None`` if it has expired."""
        profile: bytes | None = await self._data.client.call("HGET", self.key, "data")
        return profile


class ProfileSet:
    """All profiles. ``async for`` shows them, the newest first."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def size(self) -> int:
        """How many there are; what has expired is removed from the list."""
        _, count = await self._data.many(
            [("ZREMRANGEBYSCORE", PROFILES, "-inf", repr(self._data.clock.time())), ("ZCARD", PROFILES)]
        )
        return int(count)

    def __aiter__(self) -> AsyncIterator[ProfileRecord]:
        return self.each()

    async def each(self) -> AsyncIterator[ProfileRecord]:
        """Every one that has not expired. One that is listed and gone is left out."""
        names = await self._data.client.call(
            "ZRANGE", PROFILES, "+inf", f"({self._data.clock.time()!r}", "BYSCORE", "REV"
        )
        found: list[list[Any]] = await self._data.many([("HMGET", name, *_FACTS) for name in names])
        for name, facts in zip(names, found, strict=True):
            if None not in facts:
                yield ProfileRecord(self._data, name.decode(), facts)
