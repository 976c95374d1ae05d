"""Sidekiq's numbers: how many jobs ran and failed, ever and by day, and how many wait where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from ...brokers.sidekiq import keys
from ...clients.redis import Command
from ...errors import ArgumentError
from .data import Data
from .job_record import JobRecord

MOST_DAYS: Final = 5 * 365
COUNTED: Final = ("processed", "failed")


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """A queue in a list of them. ``latency``: seconds that its next job has been waiting."""

    name: str
    size: int
    latency: float
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The numbers at one moment. ``processed`` counts every execution, the failed ones among them.

    ``workers_size``: jobs at work. ``queues``: sizes by name, the longest first.
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
    queues: dict[str, int]

    @classmethod
    async def of(cls, data: Data) -> Stats:
        """Ask the server."""
        names, processes = await data.members(keys.QUEUES), await data.members(keys.PROCESSES)
        commands: list[Command] = [
            ("GET", keys.PROCESSED),
            ("GET", keys.FAILED),
            *(("ZCARD", name) for name in (keys.SCHEDULE, keys.RETRY, keys.DEAD)),
            ("LINDEX", keys.queue("default"), -1),
            *(("LLEN", keys.queue(name)) for name in names),
            *(("HGET", name, "busy") for name in processes),
        ]
        processed, failed, scheduled, retries, dead, oldest, *rest = await data.many(commands)
        sizes = dict(zip(names, (int(size) for size in rest[: len(names)]), strict=True))
        return cls(
            processed=int(processed or 0),
            failed=int(failed or 0),
            scheduled_size=scheduled,
            retry_size=retries,
            dead_size=dead,
            enqueued=sum(sizes.values()),
            processes_size=len(processes),
            workers_size=sum(int(busy or 0) for busy in rest[len(names) :]),
            default_queue_latency=0.0 if oldest is None else JobRecord(data, oldest, "default").latency,
            queues=dict(sorted(sizes.items(), key=lambda each: (-each[1], each[0]))),
        )

    @staticmethod
    async def queue_summaries(data: Data) -> list[QueueSummary]:
        """Every queue, the longest first."""
        names, paused = await data.members(keys.QUEUES), set(await data.members(keys.PAUSED))
        commands: list[Command] = []
        for name in names:
            commands += [("LLEN", keys.queue(name)), ("LINDEX", keys.queue(name), -1)]
        replies = await data.many(commands)
        found: list[QueueSummary] = []
        for name, size, oldest in zip(names, replies[::2], replies[1::2], strict=True):
            latency = 0.0 if oldest is None else JobRecord(data, oldest, name).latency
            found.append(QueueSummary(name, size, latency, name in paused))
        return sorted(found, key=lambda each: (-each.size, each.name))

    @staticmethod
    async def reset(data: Data, *names: str) -> None:
        """Set the totals of ``processed``, ``failed``, or by default both, to zero. Those of each day stay."""
        chosen = [name for name in COUNTED if not names or name in {str(each) for each in names}]
        await data.many([("SET", f"stat:{name}", 0) for name in chosen])


class History:
    """Totals of each day, of the last ``days`` up to ``start``, by default today; dates are those of UTC."""

    def __init__(self, data: Data, days: int, start: date | None = None) -> None:
        if not 1 <= days <= MOST_DAYS:
            raise ArgumentError(f"a history has 1 to {MOST_DAYS} days, got {days}")
        self._data = data
        start = start or datetime.fromtimestamp(data.clock.time(), UTC).date()
        self._days = [(start - timedelta(days=n)).isoformat() for n in range(days)]

    async def processed(self) -> dict[str, int]:
        """Executions by day, the latest first."""
        return await self._of(keys.PROCESSED)

    async def failed(self) -> dict[str, int]:
        """Failures by day, the latest first."""
        return await self._of(keys.FAILED)

    async def _of(self, key: str) -> dict[str, int]:
        counts = await self._data.client.call("MGET", *(f"{key}:{day}" for day in self._days))
        return {day: int(count or 0) for day, count in zip(self._days, counts, strict=True)}
