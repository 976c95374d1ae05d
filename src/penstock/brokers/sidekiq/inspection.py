"""The side of the driver for people: sizes, dead letters, living processes, pauses.

Sidekiq's sets are for all queues in common: what concerns one queue is found by looking through them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ...broker import DeadMessage, GroupStats, Presence, StreamStats
from ...clients.redis import Arg, Command, RedisClient
from ...clock import Clock
from ...message import Message
from . import keys, processes
from .options import SidekiqOptions
from .processes import OnBeat, OnSignal, ProcessInfo, WorkEntry
from .scripts import PROMOTE, SIZES
from .wire import Fields, Malformed, jid_of, message_of, ours, parse, queue_of, renewed

PAGE = 1000
LOOKS = 5


class SidekiqInspection:
    """Reads and mends; knows nothing of leases."""

    def __init__(self, client: RedisClient, options: SidekiqOptions, clock: Clock) -> None:
        self.client, self.options, self._clock = client, options, clock
        self.about = ProcessInfo()
        self.work: Any = list[WorkEntry]
        self.on_signal: OnSignal | None = None
        self.on_beat: OnBeat | None = None

    @property
    def url(self) -> str:
        """The address, password masked."""
        return f"sidekiq+{self.client.url}"

    async def sources(self) -> Sequence[str]:
        names = {name.decode() for name in await self.client.call("SMEMBERS", keys.QUEUES)}
        return sorted(names | {queue for queue, _ in await self._lists()})

    async def stats(self, source: str) -> StreamStats:
        sizes, delayed = await self.client.run(SIZES, (), [source]), 0
        for _ in range(LOOKS if sizes[3] or sizes[4] else 0):
            before, delayed = sizes, await self._delayed(source)
            sizes = await self.client.run(SIZES, (), [source])
            if before == sizes:  # else something moved meanwhile, and was seen twice or not at all
                break
        waiting, leased, owners, _, _, oldest = sizes
        dead = 0
        async for _, _, fields in self._members(keys.DEAD):
            dead += fields is None or queue_of(fields) == source
        ages = [_age(raw, self._clock.time()) for raw in oldest]
        group = GroupStats(name="default", leased=leased, lag=waiting, owners=owners)
        return StreamStats(
            source=source,
            size=waiting + leased,
            delayed=delayed,
            dead=dead,
            oldest_age=max((age for age in ages if age is not None), default=None),
            groups=(group,) if waiting or leased else (),
        )

    async def _delayed(self, source: str) -> int:
        count = 0
        for name in (keys.RETRY, keys.SCHEDULE):
            async for _, _, fields in self._members(name):
                count += fields is not None and queue_of(fields) == source
        return count

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        limit = max(limit, 0)
        names = [name for queue, name in await self._lists() if queue == source]
        found: list[bytes] = []
        for name in (*names, keys.queue(source)):
            if len(found) < limit:
                found += reversed(await self.client.call("LRANGE", name, len(found) - limit, -1))
        return [_message(raw) for raw in found]

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        """As the port says. What cannot be read names no queue, and is shown for each."""
        found: list[DeadMessage] = []
        start = "-inf" if after is None else after.partition("|")[0]
        passed = after is None
        async for raw, score, fields in self._members(keys.DEAD, start):
            if len(found) >= limit:
                break
            if fields is not None and queue_of(fields) != source:
                continue
            letter = _dead(raw, score, fields)
            if passed:
                found.append(letter)
            elif letter.id == after:
                passed = True
            elif float(score) > float(start):  # it is gone
                passed = True
                found.append(letter)
        return found

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        now, args = self._clock.time(), list[Arg]()
        for raw, fields in await self._named(ids):
            if fields is not None and queue_of(fields) == source:
                args += [keys.DEAD, raw, "p", source, renewed(fields, now, self.options.timestamps)]
        return await self.client.run(PROMOTE, (), args) if args else 0

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        args: list[Arg] = []
        for raw, fields in await self._named(ids):
            if fields is None or queue_of(fields) == source:
                args += [keys.DEAD, raw, "v"]
        return await self.client.run(PROMOTE, (), args) if args else 0

    async def purge(self, source: str) -> int:
        count, _ = await self._many([("LLEN", keys.queue(source)), ("UNLINK", keys.queue(source))])
        for name in (keys.RETRY, keys.SCHEDULE):
            args: list[Arg] = []
            async for raw, _, fields in self._members(name):
                if fields is not None and queue_of(fields) == source:
                    args += [name, raw, "v"]
            for i in range(0, len(args), 3 * PAGE):
                count += await self.client.run(PROMOTE, (), args[i : i + 3 * PAGE])
        return int(count)

    async def _lists(self) -> list[tuple[str, str]]:
        """Queue and name of every list of jobs that are at work."""
        members = [member.decode() for member in await self.client.call("ZRANGE", keys.OWNERS, 0, -1)]
        return [(member.split("|", 2)[2], keys.INFLIGHT + member) for member in members if member.count("|") >= 2]

    async def _members(self, name: str, start: str = "-inf") -> AsyncIterator[tuple[bytes, str, Fields | None]]:
        """Text, score and fields of each member from the score ``start`` on; no fields if it is no job."""
        offset = 0
        while page := await self.client.call(
            "ZRANGE", name, start, "+inf", "BYSCORE", "LIMIT", offset, PAGE, "WITHSCORES"
        ):
            offset += PAGE
            for raw, score in zip(page[::2], page[1::2], strict=True):
                try:
                    fields = parse(raw)
                except Malformed:
                    fields = None
                yield raw, score.decode(), fields

    async def _named(self, ids: Sequence[str]) -> list[tuple[bytes, Fields | None]]:
        """The dead jobs with these ids that are still there."""
        found: list[tuple[bytes, Fields | None]] = []
        for ident in dict.fromkeys(ids):
            score = ident.partition("|")[0]
            for raw in await self.client.call("ZRANGE", keys.DEAD, score, score, "BYSCORE"):
                try:
                    fields = parse(raw)
                except Malformed:
                    fields = None
                if _dead_id(raw, score, fields) == ident:
                    found.append((raw, fields))
                    break
        return found

    async def _many(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self.client.many(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    # ------------------------------------------------------------------------------------------------------- presence

    async def beat(self, presence: Presence, ttl: float) -> None:
        work, old = self.work(), self.options.timestamps == "float"
        told = await processes.beat(self.client, presence, ttl, self.about, work, self._clock, old=old)
        if told.signal is not None and self.on_signal is not None:
            self.on_signal(told.signal)
        if self.on_beat is not None:
            await self.on_beat(told.rtt_us, first=told.first)

    async def leave(self, identity: str) -> None:
        await processes.leave(self.client, identity)

    async def processes(self) -> Sequence[Presence]:
        return await processes.processes(self.client)

    # --------------------------------------------------------------------------------------------------------- pauses

    async def pause(self, source: str) -> bool:
        return bool(await self.client.call("SADD", keys.PAUSED, source))

    async def resume(self, source: str) -> bool:
        return bool(await self.client.call("SREM", keys.PAUSED, source))

    async def paused(self) -> frozenset[str]:
        return frozenset(name.decode() for name in await self.client.call("SMEMBERS", keys.PAUSED))


def _message(raw: bytes) -> Message:
    try:
        return message_of(raw)
    except Malformed:
        return Message(id=jid_of(None, raw), type="", body=raw)


def _age(raw: bytes, now: float) -> float | None:
    at = _message(raw).enqueued_at
    return None if at is None else max(now - at, 0.0)


def _text(value: Raw | None) -> str:
    return "" if value is None else str(msgspec.json.decode(value))


def _dead_id(raw: bytes, score: str, fields: Fields | None) -> str:
    """Score and jid, as Ruby names it, and something that tells it from others that died at that moment."""
    own = hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:8]
    return f"{score}|{jid_of(None if fields is None else fields.get('jid'), raw)}|{own}"


def _dead(raw: bytes, score: str, fields: Fields | None) -> DeadMessage:
    message, mine = _message(raw), dict[str, Any]()
    error: str | None = None
    if fields is not None:
        mine = ours(fields)
        if "error_class" in fields:
            kind, text = (_text(fields.get(name)) for name in ("error_class", "error_message"))
            error = f"{kind}: {text}"
        message = replace(message, attempt=max(message.attempt - 1, 0))
    return DeadMessage(
        id=_dead_id(raw, score, fields),
        message=message,
        reason=str(mine.get("reason", "undecodable" if fields is None else "")),
        error=error,
        meta=mine.get("meta"),
        group=str(mine.get("group", "")),
        owner=str(mine.get("owner", "")),
        died_at=float(score),
        raw=raw if fields is None else None,
    )
