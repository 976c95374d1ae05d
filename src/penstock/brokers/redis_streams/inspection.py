"""The side of the driver for people: sizes, dead letters, living workers, a diagnosis of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...broker import DeadMessage, Finding, GroupStats, Presence, StreamStats
from ...clients.redis import Arg, RedisClient, ReplyError
from ...clock import Clock
from ...errors import AccessDenied
from ...message import Message
from . import diagnosis
from .dialect import Dialect
from .options import PSEUDO
from .scripts import MEND, PRESENCE, PURGE, REQUEUE
from .wire import Unreadable, milliseconds, texts

WORKERS, BEATS = "penstock:{workers}", "penstock:{workers}:beats"
PAUSED = "penstock:{workers}:paused"  # a hash, since when in ms by stream: a worker's user may read hashes, but no sets
PAGE = 1000
EXAMINED = 200  # streams that a diagnosis looks into


class RedisStreamsInspection:
    """Reads and mends; knows nothing of leases."""

    def __init__(self, client: RedisClient, clock: Clock, dialect: Dialect) -> None:
        self._client, self._clock, self._dialect = client, clock, dialect
        self._keys = dialect.keys(tagged=client.clustered)

    @property
    def url(self) -> str:
        return self._client.url

    async def sources(self) -> Sequence[str]:
        found: set[bytes] = set()
        for server in await self._client.primaries():
            cursor: bytes | None = None
            while cursor != b"0":
                cursor, names = await server.call("SCAN", cursor or 0, "COUNT", PAGE, "TYPE", "stream")
                found.update(names)
        return sorted(name for name in texts(list(found)) if not self._keys.is_dead(name))

    async def stats(self, source: str) -> StreamStats:
        replies = await self._client.many(
            [
                ("XLEN", source),
                ("ZCARD", self._keys.delayed(source)),
                ("XLEN", self._keys.dead(source)),
                ("XRANGE", source, "-", "+", "COUNT", 1),
                ("XINFO", "GROUPS", source),
            ]
        )
        if isinstance(replies[4], ReplyError):
            replies[4] = []  # there is no such stream
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        size, delayed, dead, oldest, groups = replies
        age = None
        if oldest:
            at = self._message(oldest[0]).enqueued_at
            age = None if at is None else max(self._clock.time() - at, 0.0)
        described = [_pairs(flat) for flat in groups]
        stats = [await self._group(source, group, size if len(groups) == 1 else None) for group in described]
        return StreamStats(source=source, size=size, delayed=delayed, dead=dead, oldest_age=age, groups=tuple(stats))

    async def _group(self, source: str, group: dict[bytes, Any], size: int | None) -> GroupStats:
        pending = await self._client.call("XPENDING", source, group[b"name"])
        owners: dict[bytes, int] = {name: int(count) for name, count in _items(pending[3])}
        waiting = sum(owners.pop(name.encode(), 0) for name in PSEUDO)
        leased = pending[0] - waiting
        lag: int | None = group.get(b"lag")
        if lag is not None:
            lag += waiting
        elif size is not None:  # with one group, whatever is kept and not leased is yet to be fetched
            lag = max(size - leased, 0)
        return GroupStats(name=texts([group[b"name"]])[0], leased=leased, lag=lag, owners=len(owners))

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        entries = await self._client.call("XRANGE", source, "-", "+", "COUNT", max(limit, 0))
        return [self._message(entry) for entry in _items(entries)]

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        start = "-" if after is None else f"({after}"
        entries = await self._client.call("XRANGE", self._keys.dead(source), start, "+", "COUNT", max(limit, 0))
        return [self._letter(entry) for entry in _items(entries)]

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        now, dead, count = self._clock.time(), self._keys.dead(source), 0
        for i in range(0, len(ids), PAGE):
            replies = await self._client.many([("XRANGE", dead, ident, ident) for ident in ids[i : i + PAGE]])
            args: list[Arg] = []
            for reply in replies:
                if isinstance(reply, AccessDenied):
                    raise reply
                if isinstance(reply, Exception) or not reply:
                    continue
                entry_id, fields = reply[0]
                try:
                    fresh = self._dialect.requeued(fields, now)
                except Unreadable:
                    continue
                args += [entry_id, len(fresh), *fresh]
            if args:
                count += await self._client.run(REQUEUE, [dead, source], args)
        return count

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        replies = await self._client.many([("XDEL", self._keys.dead(source), ident) for ident in ids])
        return sum(reply for reply in replies if isinstance(reply, int))

    async def purge(self, source: str) -> int:
        count = await self._purge_stream(source)
        delayed = self._keys.delayed(source)
        waiting, _ = await self._client.many([("ZCARD", delayed), ("DEL", delayed)])
        for group in await self._groups(source):
            await self._mend(source, group, delayed)
        return count + int(waiting)

    async def _purge_stream(self, source: str) -> int:
        last = await self._client.call("XREVRANGE", source, "+", "-", "COUNT", 1)
        count, start, groups = 0, "-", await self._groups(source) if last else []
        keys = [source, *(key for group in groups for key in self._keys.turns(source, group))]
        while last and start:
            deleted, following = await self._client.run(PURGE, keys, [start, last[0][0], PAGE, *groups])
            count, start = count + deleted, following.decode()
        return count

    async def _groups(self, source: str) -> list[str]:
        try:
            return [texts([_pairs(flat)[b"name"]])[0] for flat in await self._client.call("XINFO", "GROUPS", source)]
        except ReplyError:
            return []  # there is no such stream

    async def _mend(self, source: str, group: str, delayed: str) -> int:
        """Free the keys whose turn is held by a message that is gone; return the ghosts found meanwhile."""
        keys, cursor, found = [source, *self._keys.turns(source, group), delayed], b"0", 0
        while True:
            cursor, _, ghosts = await self._client.run(MEND, keys, [group, cursor])
            found += int(ghosts)
            if cursor == b"0":
                return found

    def _message(self, entry: Sequence[Any]) -> Message:
        return self._dialect.peeked(entry[0].decode(), entry[1])

    def _letter(self, entry: Sequence[Any]) -> DeadMessage:
        return self._dialect.letter(entry[0].decode(), entry[1])

    # ------------------------------------------------------------------------------------------------------- presence

    async def beat(self, presence: Presence, ttl: float) -> None:
        args: list[Arg] = [presence.identity, msgspec.json.encode(presence), round(ttl * 1000)]
        await self._client.run(PRESENCE, [WORKERS, BEATS], args)

    async def leave(self, identity: str) -> None:
        await self._client.run(PRESENCE, [WORKERS, BEATS], [identity, "", 0])

    async def processes(self) -> Sequence[Presence]:
        found = await self._client.run(PRESENCE, [WORKERS, BEATS], [""])
        return sorted((msgspec.json.decode(item, type=Presence) for item in found), key=lambda each: each.identity)

    # --------------------------------------------------------------------------------------------------------- pauses

    async def pause(self, source: str) -> bool:
        return bool(await self._client.call("HSETNX", PAUSED, source, milliseconds(self._clock.time())))

    async def resume(self, source: str) -> bool:
        return bool(await self._client.call("HDEL", PAUSED, source))

    async def paused(self) -> frozenset[str]:
        return frozenset(texts(await self._client.call("HKEYS", PAUSED)))

    # ------------------------------------------------------------------------------------------------------ diagnosis

    async def diagnose(self) -> Sequence[Finding]:
        found = await diagnosis.examine(self._client, self._clock)
        try:
            alive = await self.processes()
            found.append(diagnosis.workers(alive))
            for source in (await self.sources())[:EXAMINED]:
                found += await self._diagnose(source, alive)
        except (AccessDenied, ReplyError) as refused:
            found.append(Finding(level="unknown", subject="streams", detail=f"not all could be looked at: {refused}"))
        return found

    async def _diagnose(self, source: str, alive: Sequence[Presence]) -> list[Finding]:
        stats = await self.stats(source)
        found = diagnosis.unserved(stats, alive)
        commands = [("XINFO", "CONSUMERS", source, group.name) for group in stats.groups]
        last, *replies = await self._client.many(
            [("XREVRANGE", self._keys.dead(source), "+", "-", "COUNT", 1), *commands]
        )
        for group, reply in zip(stats.groups, replies, strict=True):
            if not isinstance(reply, Exception):
                found += diagnosis.silent(source, group.name, map(_holding, reply))
        newest = None if isinstance(last, Exception) or not last else self._letter(last[0]).died_at
        return found + diagnosis.dying(source, stats.dead, newest, self._clock.time())


def _items(reply: Any) -> list[Any]:
    return reply or []


def _pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _holding(flat: Sequence[Any]) -> tuple[str, int, float]:
    """Name, pending and idle seconds of a consumer; of those handed back nobody expects to hear."""
    consumer = _pairs(flat)
    name = texts([consumer[b"name"]])[0]
    return name, 0 if name in PSEUDO else consumer[b"pending"], consumer[b"idle"] / 1000
