"""The side of the driver for people: sizes, dead letters of all patterns in one place, the archive of old ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...broker import DeadMessage, GroupStats, StreamStats
from ...clients.redis import Arg
from ...message import Message
from ..redis_streams.inspection import RedisStreamsInspection
from ..redis_streams.wire import Unreadable, parse_json
from .options import ARCHIVE, DEAD, DELAYED, SCHEDULED, retries_of
from .scripts import REQUEUE
from .wire import letter, origin, read_entry

PAGE = 500
KEPT_FOR = 30 * 86_400  # seconds that an archive of one day lives


class RotifInspection(RedisStreamsInspection):
    """Reads and mends. ``rotif:dlq`` as a source stands for the dead letters of every stream."""

    async def sources(self) -> Sequence[str]:
        return [name for name in await super().sources() if not name.endswith(":retry")]

    async def stats(self, source: str) -> StreamStats:
        main, retries = await super().stats(source), await super().stats(retries_of(source))
        ages = [each.oldest_age for each in (main, retries) if each.oldest_age is not None]
        groups = {group.name: group for group in retries.groups}
        return StreamStats(
            source=source,
            size=main.size + retries.size,
            delayed=len([ident async for ident in self._delayed(source)]),
            dead=len([letter async for letter in self._letters(source, None)]),
            oldest_age=max(ages, default=None),
            groups=tuple(_sum(group, groups.get(group.name)) for group in main.groups),
        )

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        found: list[Message] = []
        for stream in (source, retries_of(source)):
            entries = await self._client.call("XRANGE", stream, "-", "+", "COUNT", max(limit - len(found), 0))
            found += [_message(entry) for entry in entries or ()]
        return found

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        found: list[DeadMessage] = []
        if limit > 0:
            async for each in self._letters(source, after):
                found.append(each)
                if len(found) >= limit:
                    break
        return found

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        return sum([await self._client.run(REQUEUE, [DEAD], ids[i : i + PAGE]) for i in range(0, len(ids), PAGE)])

    async def purge(self, source: str) -> int:
        count = 0
        for stream in (source, retries_of(source)):
            count += await self._purge_stream(stream)
        delayed = [ident async for ident in self._delayed(source)]
        for ident in delayed:
            gone, _ = await self._client.many([("ZREM", SCHEDULED, ident), ("DEL", f"{DELAYED}{ident}")])
            count += int(gone)
        return count

    async def archive_dead(self, letters: Sequence[DeadMessage], prefix: str = ARCHIVE) -> None:
        """Append dead letters to the list of today, as Rotif's successor does; a day's list lives for thirty days."""
        seconds, _ = await self._client.call("TIME")
        day, at = _day(int(seconds)), int(seconds) * 1000
        key, args = f"{prefix}:{day}", list[Arg]()
        for each in letters:
            message = each.message
            item: dict[str, Any] = {"id": each.id, "channel": message.type}
            item |= {"payload": message.body.decode("utf-8", "replace"), "error": each.error or each.reason}
            item |= {"attempt": str(message.attempt + 1), "archivedAt": at}
            if message.enqueued_at is not None:
                item["timestamp"] = str(round(message.enqueued_at * 1000))
            args.append(msgspec.json.encode(item))
        if args:
            for reply in await self._client.many([("RPUSH", key, *args), ("EXPIRE", key, KEPT_FOR)]):
                if isinstance(reply, Exception):
                    raise reply

    async def _letters(self, source: str, after: str | None) -> AsyncIterator[DeadMessage]:
        start, own = "-" if after is None else f"({after}", {source, retries_of(source)}
        while entries := await self._client.call("XRANGE", DEAD, start, "+", "COUNT", PAGE):
            for ident, fields in entries:
                if source == DEAD or origin(fields) in own:
                    yield letter(ident.decode(), fields)
            start = f"({entries[-1][0].decode()}"

    async def _delayed(self, source: str) -> AsyncIterator[str]:
        """The names of the delayed messages of one stream."""
        start, own = 0, {source, retries_of(source)}
        while idents := await self._client.call("ZRANGE", SCHEDULED, start, start + PAGE - 1):
            bodies = await self._client.call("MGET", *(DELAYED.encode() + ident for ident in idents))
            for ident, body in zip(idents, bodies, strict=True):
                item: Any = parse_json(body)
                if isinstance(item, dict) and item.get("streamKey") in own:  # pyright: ignore[reportUnknownMemberType]
                    yield ident.decode()
            start += PAGE


def _sum(main: GroupStats, retries: GroupStats | None) -> GroupStats:
    if retries is None:
        return main
    lag = None if main.lag is None or retries.lag is None else main.lag + retries.lag
    return GroupStats(
        name=main.name, leased=main.leased + retries.leased, lag=lag, owners=max(main.owners, retries.owners)
    )


def _message(entry: Sequence[Any]) -> Message:
    ident, fields = entry[0].decode(), entry[1]
    try:
        return read_entry(ident, fields)[0]
    except Unreadable:
        return Message(id=ident, type="", body=b"")


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
