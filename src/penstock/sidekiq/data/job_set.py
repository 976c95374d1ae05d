"""The sorted sets of jobs: those that wait for their time, those that wait for another try, and the dead.

Walking through a set while it changes, by our own hands or others', shows each job that stays there exactly once.
What concerns all jobs is done in slices of a hundred, each one step on the server; it ends with the jobs that were
there at its beginning, however fast new ones come.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

from ...brokers.sidekiq import keys
from ...clients.redis import Arg, Script
from ...errors import DecodeError
from .data import Data
from .job_record import JobRecord
from .repushing import repushed
from .sorted_entry import KILLED, SortedEntry

logger = logging.getLogger("penstock")

PAGE: Final = 50
SLICE: Final = 100
NEXT_PAGE: Final = Script.load("penstock.brokers.lua", "sidekiq_set_page")

_Decide: TypeAlias = Callable[[bytes], Awaitable[tuple[Arg, ...]]]
_GLOB: Final = str.maketrans({each: f"\\{each}" for each in "*?[]\\^-"})


class JobSet:
    """One sorted set of jobs. ``async for`` shows its jobs, those with the highest scores first."""

    def __init__(self, data: Data, name: str) -> None:
        self.name, self._data = name, data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._data!r})"

    async def size(self) -> int:
        return int(await self._data.client.call("ZCARD", self.name))

    def __aiter__(self) -> AsyncIterator[SortedEntry]:
        return self.each()

    async def each(self) -> AsyncIterator[SortedEntry]:
        """Every job, highest score first."""
        last: tuple[Arg, ...] = ()
        while page := await self._data.client.run(NEXT_PAGE, (self.name,), (PAGE, *last)):
            last = (page[-1], page[-2])
            for raw, score in zip(page[::2], page[1::2], strict=True):
                yield self._entry(raw, score)

    async def scan(self, match: str, count: int = 100) -> AsyncIterator[SortedEntry]:
        """The jobs whose text has ``match`` in it, in no order; with a ``*`` in it, a glob pattern for all of it.

        ``count``: how many the server looks at in a step. One that moves meanwhile may be shown twice.
        """
        pattern, cursor = match if "*" in match else f"*{match}*", b"0"
        while True:
            cursor, found = await self._data.client.call("ZSCAN", self.name, cursor, "MATCH", pattern, "COUNT", count)
            for raw, score in zip(found[::2], found[1::2], strict=True):
                yield self._entry(raw, score)
            if cursor == b"0":
                return

    async def find_job(self, jid: str) -> SortedEntry | None:
        """The job with this id; looks through the whole set, on the server."""
        async for entry in self.scan(f"*{jid.translate(_GLOB)}*"):
            if entry.jid == jid:
                return entry
        return None

    async def fetch(
        self, score: float | datetime | tuple[float | datetime, float | datetime], jid: str | None = None
    ) -> list[SortedEntry]:
        """The jobs with a score, or from one to another, both included; of these the one with ``jid``, if given."""
        first, last = score if isinstance(score, tuple) else (score, score)
        found = await self._data.client.call(
            "ZRANGE", self.name, _number(first), _number(last), "BYSCORE", "WITHSCORES"
        )
        entries = [self._entry(raw, at) for raw, at in zip(found[::2], found[1::2], strict=True)]
        return [entry for entry in entries if jid is None or entry.jid == jid]

    async def schedule(self, at: float | datetime, job: JobRecord) -> bool:
        """Put a job into the set, as it is; whether it was not there yet."""
        return bool(await self._data.client.call("ZADD", self.name, _number(at), job.value))

    async def delete(self, score: float | datetime, jid: str) -> bool:
        """Remove one job; whether it was there."""
        for entry in await self.fetch(score, jid):
            return await entry.delete()
        return False

    async def delete_by_value(self, value: bytes) -> bool:
        """Remove the job with this text; whether it was there."""
        return bool(await self._data.client.call("ZREM", self.name, value))

    async def clear(self) -> int:
        """Remove all; how many."""
        count, _ = await self._data.many([("ZCARD", self.name), ("UNLINK", self.name)])
        return int(count)

    async def add_all_to_queue(self) -> int:
        """Put all into their queues now; how many. What is no job stays where it is.

        What the middleware raises is raised at the end, the first if several; the jobs that it concerns stay too.
        """
        return await self._all(lambda raw: repushed(self._data, raw))

    async def retry_all(self) -> int:
        """The same, and this time does not count as one of their retries."""
        return await self._all(lambda raw: repushed(self._data, raw, uncounted=True))

    async def kill_all(self, *, notify_failure: bool = False, error: BaseException | None = None) -> int:
        """Move all to the dead jobs; how many. With ``notify_failure`` the death handlers hear of each."""

        async def kill(_: bytes) -> tuple[Arg, ...]:
            return ("d",)

        async def told(raw: bytes) -> None:
            await self._data.died(JobRecord(self._data, raw).item, error or RuntimeError(KILLED))

        try:
            return await self._all(kill, told if notify_failure else None)
        finally:
            await self._data.move((), trim=True)

    async def pop_each(self) -> AsyncIterator[SortedEntry]:
        """Take one job after the other out of the set, lowest score first: whoever takes one has the only copy."""
        while popped := await self._data.client.call("ZPOPMIN", self.name, 1):
            yield self._entry(*popped)

    def _entry(self, raw: bytes, score: Any) -> SortedEntry:
        return SortedEntry(self._data, self.name, float(score), raw)

    async def _all(self, decide: _Decide, then: Callable[[bytes], Awaitable[None]] | None = None) -> int:
        left, kept, moved = await self.size(), 0, 0
        errors: list[Exception] = []
        while left > 0:
            raws = await self._data.client.call("ZRANGE", self.name, kept, kept + min(left, SLICE) - 1)
            if not raws:
                break
            left -= len(raws)
            actions: list[tuple[Arg, ...]] = []
            for raw in raws:
                try:
                    actions.append((self.name, raw, *await decide(raw)))
                except DecodeError as wrong:
                    kept += 1
                    logger.warning("one of the jobs in %s stays there: %s", self.name, wrong)
                except Exception as error:  # noqa: BLE001 the middleware's own; the other jobs have nothing to do with it
                    kept += 1
                    errors.append(error)
            done = await self._data.move(actions)
            moved += sum(done)
            if then is not None:
                for (_, raw, *_), there in zip(actions, done, strict=True):
                    if there and isinstance(raw, bytes):
                        await then(raw)
        if errors:
            raise errors[0]
        return moved


class ScheduledSet(JobSet):
    """Jobs that wait for their time."""

    def __init__(self, data: Data) -> None:
        super().__init__(data, keys.SCHEDULE)


class RetrySet(JobSet):
    """Jobs that failed and will be tried again."""

    def __init__(self, data: Data) -> None:
        super().__init__(data, keys.RETRY)


class DeadSet(JobSet):
    """Jobs that failed for good. The oldest go when there are too many, or after half a year."""

    def __init__(self, data: Data) -> None:
        super().__init__(data, keys.DEAD)

    async def kill(
        self,
        message: bytes | str,
        *,
        notify_failure: bool = True,
        trim: bool = True,
        error: BaseException | None = None,
    ) -> None:
        """Add a job, or what was meant to be one, and tell the death handlers."""
        raw = message.encode() if isinstance(message, str) else message
        await self._data.move([(self.name, raw, "k")], trim=trim)
        if notify_failure:
            await self._data.died(JobRecord(self._data, raw).item, error or RuntimeError(KILLED))

    async def trim(self) -> None:
        """Remove those that are too many, or too old."""
        await self._data.move((), trim=True)


def _number(at: float | datetime) -> str:
    return repr(at.timestamp() if isinstance(at, datetime) else float(at))
