"""Profiles of jobs, as the Profiles page lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from .data import Data

FIELDS: Final = ("started_at", "jid", "type", "token", "size", "elapsed", "sid")


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """One profile. ``size``: bytes of it, compressed; ``elapsed``: seconds that the job ran; ``sid``: where it was sent."""

    data: Data
    key: str
    fields: Mapping[str, str]

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(int(self.fields["started_at"]), UTC)

    @property
    def jid(self) -> str:
        return self.fields["jid"]

    @property
    def type(self) -> str:
        """The class of the job."""
        return self.fields["type"]

    @property
    def token(self) -> str:
        return self.fields["token"]

    @property
    def size(self) -> int:
        return int(self.fields["size"])

    @property
    def elapsed(self) -> float:
        return float(self.fields["elapsed"])

    @property
    def sid(self) -> str | None:
        return self.fields.get("sid")

    async def content(self) -> bytes:
        """The profile itself: gzip of Firefox's format."""
        return await self.data.client.call("HGET", self.key, "data") or b""


class ProfileSet:
    """All of them. ``async for`` shows those that are kept, the latest first."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def size(self) -> int:
        return int(await self._data.client.call("ZCOUNT", "profiles", self._data.clock.time(), "+inf"))

    def __aiter__(self) -> AsyncIterator[ProfileRecord]:
        return self.each()

    async def each(self) -> AsyncIterator[ProfileRecord]:
        """Those that are kept; of one that has just gone, nothing."""
        now = self._data.clock.time()
        _, names = await self._data.many(
            [("ZREMRANGEBYSCORE", "profiles", "-inf", now), ("ZRANGE", "profiles", "+inf", 0, "BYSCORE", "REV")]
        )
        keys = [name.decode() for name in names]
        replies = await self._data.many([("HMGET", key, *FIELDS) for key in keys])
        for key, reply in zip(keys, replies, strict=True):
            record = _record(self._data, key, reply)
            if record is not None:
                yield record


def _record(data: Data, key: str, reply: Sequence[bytes | None]) -> ProfileRecord | None:
    fields = {name: value.decode() for name, value in zip(FIELDS, reply, strict=True) if value is not None}
    return None if "started_at" not in fields else ProfileRecord(data, key, fields)
