"""Reads the metrics that ``metrics`` writes, Ruby's as well as ours, as its Web UI shows them.

Of minutes there is everything; of hours the figures are by ten minutes, and there are no histograms.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from ..clients.redis import Command, RedisClient
from ..clock import SYSTEM_CLOCK, Clock
from .deploy import marks_key
from .metrics import BUCKETS, histogram_key, minute_key, ten_minutes_key

Granularity: TypeAlias = Literal["minutely", "hourly"]
Series: TypeAlias = defaultdict[str, float]

MOST_MINUTES, MOST_HOURS = 480, 72
_STRIDE = {"minutely": 60, "hourly": 600}  # seconds from one figure to the next


@dataclass(frozen=True, slots=True)
class Mark:
    """A deploy. ``bucket``: the time of the figures that it falls into, as they name it."""

    time: datetime
    label: str
    bucket: str


def _no_series() -> defaultdict[str, Series]:
    return defaultdict(_zeros)


def _zeros() -> Series:
    return defaultdict(float)


@dataclass(slots=True)
class JobResult:
    """The figures of one class: ``p`` executions, ``f`` failures, ``ms`` and ``s`` the time of those that succeeded.

    ``series``: by figure and time; ``hist``: by time, runs by duration, slowest first; ``totals``: by figure.
    """

    series: defaultdict[str, Series] = field(default_factory=_no_series)
    hist: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    totals: Series = field(default_factory=_zeros)

    def add(self, figure: str, bucket: str, value: float) -> None:
        """Count one more value."""
        self.totals[figure] += value
        self.series[figure][bucket] += value
        if figure == "ms":
            self.add("s", bucket, value / 1000)

    def total_avg(self, figure: str = "ms") -> float:
        """Of a run that succeeded, on average."""
        completed = self.totals["p"] - self.totals["f"]
        return self.totals[figure] / completed if completed else 0.0

    def series_avg(self, figure: str = "ms") -> dict[str, float]:
        """The same by time."""
        done = {at: self.series["p"][at] - self.series["f"][at] for at in list(self.series[figure])}
        return {at: value / done[at] if done[at] else 0.0 for at, value in self.series[figure].items()}


@dataclass(slots=True, kw_only=True)
class Result:
    """What was found between two times."""

    starts_at: datetime
    ends_at: datetime
    granularity: Granularity
    job_results: defaultdict[str, JobResult] = field(default_factory=lambda: defaultdict[str, JobResult](JobResult))
    marks: list[Mark] = field(default_factory=list[Mark])


class MetricsQuery:
    """``top_jobs`` for all classes, ``for_job`` for one. ``now``: until when, by default until now."""

    def __init__(self, client: RedisClient, *, now: float | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = client
        self._until = datetime.fromtimestamp(clock.time() if now is None else now, UTC)

    async def top_jobs(
        self, class_filter: str | re.Pattern[str] | None = None, *, minutes: int | None = None, hours: int | None = None
    ) -> Result:
        """The figures of every class that ``class_filter`` is found in; by default of the last hour."""
        times, result = self._window(minutes, hours)
        replies = await self._asked([("HGETALL", _key(at, result)) for at in times])
        for at, reply in zip(times, replies, strict=True):
            for name, value in zip(reply[::2], reply[1::2], strict=True):
                cls, _, figure = name.decode("utf-8", "replace").partition("|")
                if class_filter is None or re.search(class_filter, cls):
                    result.job_results[cls].add(figure, _bucket(at, result), int(value))
        result.marks = await self._marks(result)
        return result

    async def for_job(self, name: str, *, minutes: int | None = None, hours: int | None = None) -> Result:
        """The figures of one class, and of minutes the histograms."""
        times, result = self._window(minutes, hours)
        figures, found = ("ms", "p", "f"), result.job_results[name]
        replies = await self._asked(
            [("HMGET", _key(at, result), *(f"{name}|{each}" for each in figures)) for at in times]
        )
        for at, reply in zip(times, replies, strict=True):
            for figure, value in zip(figures, reply, strict=True):
                if value is not None:
                    found.add(figure, _bucket(at, result), int(value))
        if result.granularity == "minutely":
            wish: list[Any] = []
            for place in range(BUCKETS):
                wish += ["GET", "u16", f"#{place}"]
            grams = await self._asked([("BITFIELD_RO", histogram_key(name, at), *wish) for at in times])
            found.hist = {_bucket(at, result): gram[::-1] for at, gram in zip(times, grams, strict=True)}
        result.marks = await self._marks(result)
        return result

    def _window(self, minutes: int | None, hours: int | None) -> tuple[list[datetime], Result]:
        """The times to look at, latest first. More than is kept, or nothing said, is an hour; of hours the most."""
        if hours is not None:
            granularity: Granularity = "hourly"
            count = min(max(hours, 1), MOST_HOURS) * 6
        else:
            granularity = "minutely"
            count = minutes if minutes is not None and 0 < minutes <= MOST_MINUTES else 60
        stride = timedelta(seconds=_STRIDE[granularity])
        times = [self._until - stride * number for number in range(count)]
        return times, Result(starts_at=self._until - stride * count, ends_at=self._until, granularity=granularity)

    async def _marks(self, result: Result) -> list[Mark]:
        """The deploys, of each day that the window touches."""
        first, last = result.starts_at.date(), result.ends_at.date()
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        marks: list[Mark] = []
        for reply in await self._asked([("HGETALL", marks_key(day)) for day in days]):
            for time, label in zip(reply[::2], reply[1::2], strict=True):
                at = datetime.fromisoformat(time.decode())
                if result.starts_at <= at <= result.ends_at:
                    marks.append(Mark(at, label.decode("utf-8", "replace"), _bucket(at, result)))
        return sorted(marks, key=lambda mark: mark.time)

    async def _asked(self, commands: Sequence[Command]) -> list[Any]:
        replies = list(await self._client.many(commands))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def _key(at: datetime, result: Result) -> str:
    return minute_key(at) if result.granularity == "minutely" else ten_minutes_key(at)


def _bucket(at: datetime, result: Result) -> str:
    """The beginning of the figures' time, as ISO 8601 names it."""
    seconds = int(at.timestamp())
    return iso(datetime.fromtimestamp(seconds - seconds % _STRIDE[result.granularity], UTC))


def iso(at: datetime) -> str:
    """A time in UTC to the second, as Ruby writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"
