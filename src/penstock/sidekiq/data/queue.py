"""A queue: a list of jobs, pushed on the left, taken from the right."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from typing import Final

from ...brokers.sidekiq import keys
from ...clients.redis import Arg, Script
from .data import Data
from .job_record import JobRecord

PAGE: Final = 50
NEXT_PAGE: Final = Script.load("penstock.brokers.lua", "sidekiq_queue_page")


class Queue:
    """One queue. ``async for`` shows its jobs, the newest first.

    Jobs at work are in none: a worker has taken them.
    """

    def __init__(self, data: Data, name: str = "default") -> None:
        self.name, self._data, self._key = name, data, keys.queue(name)

    def __repr__(self) -> str:
        return f"Queue({self._data!r}, {self.name!r})"

    @classmethod
    async def all(cls, data: Data) -> builtins.list[Queue]:
        """Every queue into which something was pushed since it was last cleared, by name."""
        return [cls(data, name) for name in await data.members(keys.QUEUES)]

    async def size(self) -> int:
        return int(await self._data.client.call("LLEN", self._key))

    async def latency(self) -> float:
        """How long the next job has been waiting, in seconds; 0 if there is none."""
        oldest = await self._data.client.call("LINDEX", self._key, -1)
        return 0.0 if oldest is None else JobRecord(self._data, oldest, self.name).latency

    async def paused(self) -> bool:
        """Whether workers that honour it take nothing: penstock's and Sidekiq Pro's."""
        return bool(await self._data.client.call("SISMEMBER", keys.PAUSED, self.name))

    async def pause(self) -> bool:
        """Have them take nothing; false if it was so already."""
        return bool(await self._data.client.call("SADD", keys.PAUSED, self.name))

    async def unpause(self) -> bool:
        """Have them go on; false if it was so already."""
        return bool(await self._data.client.call("SREM", keys.PAUSED, self.name))

    def __aiter__(self) -> AsyncIterator[JobRecord]:
        return self.each()

    async def each(self) -> AsyncIterator[JobRecord]:
        """Every job, the newest first. Pushes and deletions meanwhile make none be skipped or shown twice."""
        start, seen = 0, tuple[Arg, ...]()
        while True:
            start, raws = await self._data.client.run(NEXT_PAGE, (self._key,), (PAGE, start, *seen))
            if not raws:
                return
            for raw in raws:
                yield JobRecord(self._data, raw, self.name)
            start, seen = start + len(raws), tuple(reversed(raws))

    async def find_job(self, jid: str) -> JobRecord | None:
        """The job with this id; looks at one after the other."""
        async for job in self:
            if job.jid == jid:
                return job
        return None

    async def clear(self) -> int:
        """Remove all jobs, and the queue from the list of queues; how many jobs."""
        replies = await self._data.many(
            [("MULTI",), ("LLEN", self._key), ("UNLINK", self._key), ("SREM", keys.QUEUES, self.name), ("EXEC",)]
        )
        return int(replies[-1][0])
