"""Execution counts and times in Sidekiq's keys, for its metrics pages.

Of each class: per minute (kept 8 hours) and per ten minutes (kept 3 days) how often it ran, how often it failed and the
milliseconds of those runs that did not; per minute a histogram of these times. ``Tracker`` collects, ``flush`` at every
heartbeat and at the end writes, ``MetricsQuery`` in ``metrics_query`` reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from ..clients.redis import Arg, Command, RedisClient
from ..clock import SYSTEM_CLOCK, Clock

Schema: TypeAlias = Literal["8", "7", "both"]

SHORT, LONG = 8 * 3600, 72 * 3600  # seconds: what is by the minute, what is by ten minutes
# Milliseconds; a run is in the first bucket whose limit is greater. The last one is for everything else.
LIMITS: Final = (
    *(20, 30, 45, 65, 100, 150, 225, 335, 500, 750, 1100, 1700, 2500, 3800, 5750, 8500, 13_000, 20_000, 30_000),
    *(45_000, 65_000, 100_000, 150_000, 225_000, 335_000),
)
BUCKETS: Final = len(LIMITS) + 1
LABELS: Final = (
    *("20ms", "30ms", "45ms", "65ms", "100ms", "150ms", "225ms", "335ms", "500ms", "750ms", "1.1s", "1.7s", "2.5s"),
    *("3.8s", "5.75s", "8.5s", "13s", "20s", "30s", "45s", "65s", "100s", "150s", "225s", "335s", "Slow"),
)


def minute_key(at: datetime) -> str:
    """The hash of a minute."""
    return f"j|{at:%y%m%d}|{at.hour}:{at:%M}"


def ten_minutes_key(at: datetime) -> str:
    """The hash of ten minutes."""
    return minute_key(at)[:-1]


def histogram_key(name: str, at: datetime) -> str:
    """The bitfield of a class in a minute."""
    return f"h|{name}-{at.day}-{at.hour}:{at.minute}"


def minute_key_7(at: datetime) -> str:
    """The hash of a minute as Sidekiq 7 has it."""
    return f"j|{at:%Y%m%d}|{at.hour}:{at.minute}"


def histogram_key_7(name: str, at: datetime) -> str:
    """The bitfield of a class in a minute as Sidekiq 7 has it."""
    return f"{name}-{at:%d}-{at:%H}:{at.minute}"


class Tracker:
    """What ran since the last flush. Called on the event loop, for every job: it only counts.

    ``schema``: whose keys are written, those of Sidekiq ``8``, of ``7``, or of ``both``.
    """

    def __init__(self, *, schema: Schema = "8", clock: Clock = SYSTEM_CLOCK) -> None:
        self._schema: Schema = schema
        self._clock = clock
        self._runs: dict[str, list[int]] = {}  # by class: executions, failures, milliseconds, then the histogram

    def ran(self, name: str, began: float, ended: float, /) -> None:
        """A job ran, or an iteration was interrupted; times are of the monotonic clock."""
        runs = self._runs.get(name) or self._of(name)
        took = int(ended * 1000) - int(began * 1000)  # without a tendency, unlike the difference cut off
        runs[0] += 1
        runs[2] += took
        runs[3 + bisect_right(LIMITS, took)] += 1

    def failed(self, name: str, /) -> None:
        """A job failed; its time says nothing."""
        runs = self._runs.get(name) or self._of(name)
        runs[0] += 1
        runs[1] += 1

    async def flush(self, client: RedisClient) -> None:
        """Write what was counted. What could not be written is counted again."""
        counted, self._runs = self._runs, {}
        if not counted:
            return
        commands = self._commands(counted, datetime.fromtimestamp(self._clock.time(), UTC))
        try:
            replies = await client.many(commands)
        except BaseException:
            self._again(counted)
            raise
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if failed is not None:
            raise failed

    def _of(self, name: str) -> list[int]:
        # Readers split fields at this mark; a class name that has one would be another class's figures
        return self._runs.setdefault(name.replace("|", "_"), [0] * (3 + BUCKETS))

    def _again(self, counted: dict[str, list[int]]) -> None:
        for name, numbers in counted.items():
            runs = self._of(name)
            runs[:] = [one + other for one, other in zip(runs, numbers, strict=True)]

    def _commands(self, counted: dict[str, list[int]], at: datetime) -> list[Command]:
        commands: list[Command] = []
        hashes: list[tuple[str, int]] = []
        histograms: list[Callable[[str, datetime], str]] = []
        if self._schema != "7":
            hashes += [(ten_minutes_key(at), LONG), (minute_key(at), SHORT)]
            histograms.append(histogram_key)
        if self._schema != "8":
            hashes.append((minute_key_7(at), SHORT))
            histograms.append(histogram_key_7)
        for name, numbers in counted.items():
            for key in [make(name, at) for make in histograms if any(numbers[3:])]:
                commands += [_bitfield(key, numbers[3:]), ("EXPIRE", key, SHORT)]
        for key, ttl in hashes:
            commands += [("HINCRBY", key, field, number) for field, number in _fields(counted).items()]
            commands.append(("EXPIRE", key, ttl))
        return commands


def _bitfield(key: str, buckets: list[int]) -> Command:
    command: list[Arg] = ["BITFIELD", key, "OVERFLOW", "SAT"]
    for place, number in enumerate(buckets):
        if number:
            command += ["INCRBY", "u16", f"#{place}", number]
    return command


def _fields(counted: dict[str, list[int]]) -> Counter[str]:
    fields: Counter[str] = Counter()
    for name, (runs, failures, milliseconds, *_) in counted.items():
        if runs > failures:
            fields[f"{name}|ms"] += milliseconds
        fields[f"{name}|p"] += runs
        if failures:
            fields[f"{name}|f"] += failures
    return fields
