"""What processes work on, Ruby's and ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...brokers.sidekiq import keys
from ...clients.redis import Command
from .data import Data
from .job_record import JobRecord
from .process_set import ProcessSet


class Work:
    """One job at work. ``run_at``: since when; ``process_id``, ``thread_id``: where."""

    def __init__(self, data: Data, process_id: str, thread_id: str, entry: Mapping[str, Any]) -> None:
        self.process_id, self.thread_id = process_id, thread_id
        self.queue, self.payload = str(entry.get("queue") or ""), str(entry.get("payload") or "")
        self.run_at = datetime.fromtimestamp(float(entry.get("run_at") or 0), UTC)
        self.job = JobRecord(data, self.payload.encode(), self.queue)


class WorkSet:
    """The jobs that are at work, as of the last heartbeats. ``async for`` shows them, the longest running first."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[Work]:
        return self.each()

    async def each(self) -> AsyncIterator[Work]:
        """All of them."""
        for work in sorted(await self._all(), key=lambda each: each.run_at):
            yield work

    async def size(self) -> int:
        """How many there are, as the processes count."""
        return sum([process.busy async for process in ProcessSet(self._data)])

    async def find_work(self, jid: str) -> Work | None:
        """The one that runs the job with this id, if any."""
        return next((work for work in await self._all() if work.job.jid == jid), None)

    async def _all(self) -> list[Work]:
        names = await self._data.members(keys.PROCESSES)
        commands: list[Command] = [
            ("HGETALL", key)
            for name in names
            for key in (keys.work(name), f"{name}:workers")  # the latter up to 6.4.1
        ]
        replies = await self._data.many(commands)
        found: list[Work] = []
        for index, reply in enumerate(replies):
            for tid, raw in zip(reply[::2], reply[1::2], strict=True):
                if raw:
                    entry: dict[str, Any] = msgspec.json.decode(raw)
                    found.append(Work(self._data, names[index // 2], tid.decode(), entry))
        return found
