"""The original's keys in Redis: waiting lists with their priorities, delayed sets, groups in turn, failed jobs, schedules.

What is being moved lies in a hash of its own meanwhile, ``<prefix>penstock:moving:<name>``: out of the reach of the
original's workers, and known by a name that is the same after a crash. The next run begins with those.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

from ...clients.opening import redis_client
from ...clients.redis import Arg, RedisClient, Script
from ...errors import ConfigurationError
from ...job_terms import PRIORITIES
from .serialized import UnreadableError, serialized
from .source import Beside, Entry, Page, Timetable

PAGE: Final = 500
MOVING: Final = "penstock:moving:"
OTHERS: Final = re.compile(
    r"active|queues|schedules|(schedule|lock|worker|penstock):.*|logs(:history)?|.*:(ratelimit:\d+|paused)"
)

# KEYS  1 where the jobs lie   2 the hash they are moved to
# ARGV  1 list, tail or zset   2 the place, as JSON   3.. the jobs
# list: the oldest is at the tail; tail: it is at the head. Returns 1 for each that was there
CLAIM = Script(
    "gravito-claim",
    """
local taken = {}
for i = 3, #ARGV do
  local score, there = '', 0
  if ARGV[1] == 'zset' then
    score = redis.call('ZSCORE', KEYS[1], ARGV[i])
    there = redis.call('ZREM', KEYS[1], ARGV[i])
  else
    there = redis.call('LREM', KEYS[1], ARGV[1] == 'list' and -1 or 1, ARGV[i])
  end
  if there == 1 then
    redis.call('HSET', KEYS[2], 'place', ARGV[2], i - 3, ARGV[i], 'due:' .. (i - 3), score)
  end
  taken[i - 2] = there
end
return taken
""",
)

# KEYS  1 the hash   ARGV  1.. fields that are published. Without any left the hash goes
REMOVE = Script(
    "gravito-remove",
    """
for i = 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i], 'due:' .. ARGV[i]) end
if redis.call('HLEN', KEYS[1]) <= 1 then redis.call('DEL', KEYS[1]) end
return 1
""",
)


class RedisSource:
    """``prefix``: the driver's option of that name."""

    def __init__(self, client: RedisClient, prefix: str) -> None:
        if client.clustered:
            raise ConfigurationError("the original cannot use a Redis Cluster; give the address of a single server")
        self._client, self._prefix = client, prefix

    @classmethod
    def from_url(cls, url: str, prefix: str = "queue:") -> RedisSource:
        """Raises ``InvalidURL``, ``ConfigurationError``."""
        return cls(redis_client(url), prefix)

    async def pages(self) -> AsyncIterator[Page]:
        names = await self._names()
        for name in sorted(each for each in names if each.startswith(MOVING)):
            yield await self._begun(name)
        jobs = [(name, kind) for name, kind in names.items() if kind in {"list", "zset"} and not OTHERS.fullmatch(name)]
        for name, kind in sorted(jobs, key=lambda each: _turn(*each)):
            left = 0
            while entries := await self._entries(name, kind, left):
                page = Page(entries)
                yield page
                left += page.left

    async def claim(self, entries: Sequence[Entry]) -> Sequence[str | None]:
        if not entries or entries[0].token is not None:
            return [entry.token for entry in entries]
        first, nonce = entries[0], secrets.token_hex(8)
        way = "tail" if first.at.startswith("pending:") else "zset" if first.due is not None else "list"
        keys = [self._prefix + first.at, f"{self._prefix}{MOVING}{nonce}"]
        taken = await self._client.run(CLAIM, keys, [way, first.at, *(entry.raw for entry in entries)])
        return [f"{nonce}:{n}" if there == 1 else None for n, there in enumerate(taken)]

    async def remove(self, entries: Sequence[Entry], tokens: Sequence[str]) -> None:
        if tokens:
            nonce = tokens[0].partition(":")[0]
            fields: list[Arg] = [token.partition(":")[2] for token in tokens]
            await self._client.run(REMOVE, [f"{self._prefix}{MOVING}{nonce}"], fields)

    async def beside(self) -> Beside:
        names = await self._names()
        found = Beside(paused=sorted(name.removesuffix(":paused") for name in names if name.endswith(":paused")))
        for name, kind in sorted(names.items()):
            if name.startswith("schedule:") and kind == "hash":
                found.timetables.append(await self._timetable(name))
        return found

    async def forget(self, timetable: Timetable) -> None:
        await self._client.call("ZREM", f"{self._prefix}schedules", timetable.id)
        await self._client.call("DEL", self._prefix + timetable.at)

    async def close(self) -> None:
        await self._client.close()

    async def _names(self) -> dict[str, str]:
        """The keys behind the prefix, and their types."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._prefix) + "*"
        keys: set[bytes] = set()
        cursor: Arg = "0"
        while True:
            cursor, some = await self._client.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            keys.update(some)
            if int(cursor) == 0:
                break
        ordered = sorted(keys)
        kinds = await self._client.many([("TYPE", key) for key in ordered])
        return {
            key.decode(errors="replace")[len(self._prefix) :]: _kind(kind)
            for key, kind in zip(ordered, kinds, strict=True)
        }

    async def _entries(self, name: str, kind: str, skip: int) -> list[Entry]:
        key = self._prefix + name
        if kind == "zset":
            found = await self._client.call("ZRANGE", key, skip, skip + PAGE - 1, "WITHSCORES")
            return [
                self._entry(name, raw, due=float(score) / 1000)
                for raw, score in zip(found[::2], found[1::2], strict=True)
            ]
        if name.startswith("pending:"):
            found = await self._client.call("LRANGE", key, skip, skip + PAGE - 1)
            return [self._entry(name, raw) for raw in found]
        found = await self._client.call("LRANGE", key, -skip - PAGE, -skip - 1)
        return [self._entry(name, raw) for raw in reversed(found)]

    async def _begun(self, name: str) -> Page:
        """What a run that did not end has claimed."""
        found = await self._client.call("HGETALL", self._prefix + name)
        fields = {key.decode(): value for key, value in zip(found[::2], found[1::2], strict=True)}
        place, nonce = fields.pop("place", b"").decode(), name.removeprefix(MOVING)
        numbers = sorted(int(field) for field in fields if field.isdecimal())
        return Page(
            [
                self._entry(
                    place,
                    fields[f"{n}"],
                    due=float(fields[f"due:{n}"]) / 1000 if fields.get(f"due:{n}") else None,
                    token=f"{nonce}:{n}",
                )
                for n in numbers
            ]
        )

    def _entry(self, name: str, raw: bytes, due: float | None = None, token: str | None = None) -> Entry:
        base = name.removesuffix(":delayed")
        failed = base.endswith(":failed") and due is None
        queue, priority = (None, None) if name.startswith("pending:") else _split(base.removesuffix(":failed"), raw)
        return Entry(
            raw=raw,
            place=self._prefix + name,
            at=name,
            queue=queue,
            priority=None if failed else priority,
            due=due,
            failed=failed,
            token=token,
        )

    async def _timetable(self, name: str) -> Timetable:
        found = await self._client.call("HGETALL", self._prefix + name)
        fields = {key.decode(): value for key, value in zip(found[::2], found[1::2], strict=True)}
        return Timetable(
            id=fields.get("id", b"").decode() or name.removeprefix("schedule:"),
            cron=fields.get("cron", b"").decode(),
            queue=fields.get("queue", b"").decode() or "default",
            job=fields.get("job", b""),
            enabled=fields.get("enabled") == b"true",
            at=name,
        )


def _split(name: str, raw: bytes) -> tuple[str, str | None]:
    """Queue and priority of a list: ``a:b`` is one or both, and the job knows its queue."""
    try:
        own = serialized(raw).queue
    except UnreadableError:
        own = None
    if own is not None and name == own:
        return own, "default"
    if own is not None and name.startswith(f"{own}:"):
        return own, name.removeprefix(f"{own}:")
    queue, _, last = name.rpartition(":")
    return (queue, last) if queue and last in PRIORITIES else (name, "default")


def _turn(name: str, kind: str) -> tuple[int, int, str]:
    """What is delayed is out of the way at once; then what waits, as urgent as it is; a group's head before the rest."""
    last = name.rpartition(":")[2]
    urgency = PRIORITIES.index(last) if last in PRIORITIES else PRIORITIES.index("default")
    step = 0 if kind == "zset" else 2 if name.startswith("pending:") else 3 if last == "failed" else 1
    return step, urgency, name


def _kind(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
