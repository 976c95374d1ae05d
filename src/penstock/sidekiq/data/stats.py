"""Sidekiq's numbers: how much was done, waits and is at work, now and day by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec

from ...brokers.sidekiq import keys
from ...clients.redis import Command
from ...errors import ConfigurationError
from .data import Data
from .job_record import JobRecord

LONGEST: Final = 5 * 365  # days: what Sidekiq keeps
_COUNTERS: Final = {"failed": keys.FAILED, "processed": keys.PROCESSED}


class QueueSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A queue at one moment. ``latency``: seconds that its next job has been waiting."""

    name: str
    size: int
    latency: float
    paused: bool


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers at one moment. ``processed`` counts every execution, the ``failed`` ones too.

    ``workers_size``: jobs at work. ``queue_summaries``: the longest queue first.
    """

    processed: int
    failed: int
    scheduled_size: int
    retry_size: int
    dead_size: int
    enqueued: int
    processes_size: int
    workers_size: int
    default_queue_latency: float
    queue_summaries: tuple[QueueSummary, ...]

    @property
    def queues(self) -> dict[str, int]:
        """Size by name, the longest first."""
        return {queue.name: queue.size for queue in self.queue_summaries}

    @classmethod
    async def load(cls, data: Data) -> Stats:
        """The numbers of now; two round trips."""
        processed, failed, scheduled, retry, dead, processes, queues, oldest = await data.many(
            [
                ("GET", keys.PROCESSED),
                ("GET", keys.FAILED),
                ("ZCARD", keys.SCHEDULE),
                ("ZCARD", keys.RETRY),
                ("ZCARD", keys.DEAD),
                ("SMEMBERS", keys.PROCESSES),
                ("SMEMBERS", keys.QUEUES),
                ("LINDEX", keys.queue("default"), -1),
            ]
        )
        summaries, busy = await _look(data, sorted(queues), processes)
        return cls(
            processed=int(processed or 0),
            failed=int(failed or 0),
            scheduled_size=scheduled,
            retry_size=retry,
            dead_size=dead,
            enqueued=sum(queue.size for queue in summaries),
            processes_size=len(processes),
            workers_size=busy,
            default_queue_latency=_latency(data, oldest),
            queue_summaries=tuple(sorted(summaries, key=lambda queue: -queue.size)),
        )

    @staticmethod
    async def reset(data: Data, *names: object) -> None:
        """Set ``processed``, ``failed`` or, if none is named, both to 0. The days keep their numbers."""
        wanted = {str(name) for name in names}
        for name, key in _COUNTERS.items():
            if not names or name in wanted:
                await data.client.call("SET", key, 0)


class History:
    """Numbers of single days, UTC: the last ``days`` until ``start``, by default today."""

    def __init__(self, data: Data, days: int = 30, start: date | None = None) -> None:
        if not 1 <= days <= LONGEST:
            raise ConfigurationError(f"days is a whole number from 1 to {LONGEST}, got {days!r}")
        self._data = data
        last = start or datetime.fromtimestamp(data.clock.time(), UTC).date()
        self._days = [(last - timedelta(days=number)).isoformat() for number in range(days)]

    async def processed(self) -> dict[str, int]:
        """Executions by day, such as ``2026-11-21``; the last day first."""
        return await self._counts(keys.PROCESSED)

    async def failed(self) -> dict[str, int]:
        """Failed ones by day."""
        return await self._counts(keys.FAILED)

    async def _counts(self, key: str) -> dict[str, int]:
        counts = await self._data.client.call("MGET", *(f"{key}:{day}" for day in self._days))
        return {day: int(count or 0) for day, count in zip(self._days, counts, strict=True)}


async def _look(data: Data, queues: list[bytes], processes: list[bytes]) -> tuple[list[QueueSummary], int]:
    """Every queue, and how many jobs are at work."""
    commands: list[Command] = []
    for queue in queues:
        commands += [("LLEN", b"queue:" + queue), ("LINDEX", b"queue:" + queue, -1), ("SISMEMBER", keys.PAUSED, queue)]
    replies: list[Any] = await data.many([*commands, *(("HGET", process, "busy") for process in processes)])
    rows = zip(queues, *(replies[first : len(commands) : 3] for first in range(3)), strict=True)
    summaries = [
        QueueSummary(
            name=queue.decode("utf-8", "surrogateescape"),
            size=size,
            latency=_latency(data, oldest),
            paused=bool(paused),
        )
        for queue, size, oldest, paused in rows
    ]
    return summaries, sum(int(busy or 0) for busy in replies[len(commands) :])


def _latency(data: Data, raw: bytes | None) -> float:
    return 0.0 if raw is None else JobRecord(data, raw).latency
