"""What the processes work on, as their last heartbeats tell: up to ten seconds ago."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from ...brokers.sidekiq import keys
from ...clients.redis import Command
from .data import Data
from .job_record import JobRecord, seconds

OLD_KEY: Final = "{}:workers"  # until 6.4.1


class Work:
    """One job at work, on a thread of a process."""

    def __init__(self, data: Data, process_id: str, thread_id: str, entry: dict[str, Any]) -> None:
        self._data, self._entry = data, entry
        self.process_id, self.thread_id = process_id, thread_id

    def __repr__(self) -> str:
        return f"<Work {self.process_id} {self.thread_id} {self.job!r}>"

    @property
    def queue(self) -> str:
        """The queue that the job was taken from."""
        return str(self._entry.get("queue") or "")

    @property
    def run_at(self) -> datetime:
        """When it began."""
        return datetime.fromtimestamp(seconds(self._entry.get("run_at")) or 0.0, UTC)

    @property
    def payload(self) -> Any:
        """The job's text; before Sidekiq 6 its fields."""
        return self._entry.get("payload")

    @cached_property
    def job(self) -> JobRecord:
        return JobRecord(self._data, self.payload or "", self.queue)


class WorkSet:
    """All jobs at work. ``async for`` shows them, the one that has run for the longest time first."""

    def __init__(self, data: Data) -> None:
        self._data = data

    async def size(self) -> int:
        """How many the processes say that they are at."""
        names = await self._data.members(keys.PROCESSES)
        counts = await self._data.many([("HGET", name, "busy") for name in names])
        return sum(int(count or 0) for count in counts)

    def __aiter__(self) -> AsyncIterator[Work]:
        return self.each()

    async def each(self) -> AsyncIterator[Work]:
        """Every job at work."""
        names = await self._data.members(keys.PROCESSES)
        commands: list[Command] = []
        for name in names:
            commands += [("HGETALL", keys.work(name)), ("HGETALL", OLD_KEY.format(name))]
        replies = await self._data.many(commands)
        works: list[Work] = []
        for number, reply in enumerate(replies):
            for thread, text in zip(reply[::2], reply[1::2], strict=True):
                entry = _entry(text)
                if entry is not None:
                    works.append(Work(self._data, names[number // 2], thread.decode("utf-8", "replace"), entry))
        for work in sorted(works, key=lambda each: each.run_at):
            yield work

    async def find_work(self, jid: str) -> Work | None:
        """The one that runs the job with this id."""
        async for work in self:
            if work.job.jid == jid:
                return work
        return None


def _entry(text: bytes) -> dict[str, Any] | None:
    """What a thread says of its job. None is at work if it says nothing, or nothing that can be read."""
    try:
        entry: Any = json.loads(text) if text else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None  # pyright: ignore[reportUnknownVariableType] JSON has no types
