"""Rounds of measurement: ours and bare in turn, so that a noisy neighbour disturbs both, and medians of all rounds.

Only the ratios mean anything on another machine. A ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..errors import InvalidURL
from .bench_bare import Bare, RedisBare, SqliteBare
from .bench_work import Ours

WARM_UP = 5_000  # jobs of a first round that is not reported: caches, connections and clocks settle
LATENCIES = 1000  # messages sent to the idle worker

Progress = Callable[[str], None]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Messages per second; ``ratio`` to the bare client, and the ratios of the worst and the best round."""

    per_s: int
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None


class Publishing(msgspec.Struct, frozen=True, kw_only=True):
    """Single sends: one after the other, and many at once. The ratio is that of the awaited ones."""

    awaited_per_s: int
    gathered_per_s: int
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From ``send`` to the start of the handler on an idle worker."""

    p50_ms: float
    p99_ms: float
    samples: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole process, which here is worker, producer and bare client in one. ``rss_mb``: while working."""

    before_mb: float
    rss_mb: float


class BareRates(msgspec.Struct, frozen=True, kw_only=True):
    """The bare client's rates per second, ``None`` where there is no such client."""

    publish_per_s: int | None
    send_many_per_s: int | None
    consume_per_s: int | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    broker: str
    jobs: int
    rounds: int
    python: str
    loop: str
    publish: Publishing
    send_many: Rate
    consume: Rate
    latency: Latency
    memory: Memory
    bare: BareRates


class Series:
    """The rates of one kind of work, of all rounds."""

    def __init__(self) -> None:
        self.ours: list[float] = []
        self.bare: list[float] = []

    def rate(self) -> Rate:
        ratios = [ours / bare for ours, bare in zip(self.ours, self.bare, strict=False)]
        return Rate(
            per_s=round(_median(self.ours)),
            ratio=round(_median(ratios), 3) if ratios else None,
            ratio_min=round(min(ratios), 3) if ratios else None,
            ratio_max=round(max(ratios), 3) if ratios else None,
        )

    def bare_rate(self) -> int | None:
        return round(_median(self.bare)) if self.bare else None


class Rounds:
    """The rounds, and what they brought."""

    def __init__(self, ours: Ours, bare: Bare | None, jobs: int) -> None:
        self._ours, self._bare, self._jobs = ours, bare, jobs
        self._singles = max(jobs // 10, 1)
        self.awaited, self.gathered, self.batched, self.consumed = Series(), Series(), Series(), Series()

    async def run(self, *, ours_first: bool) -> None:
        """One round. Who comes first in one is second in the next."""
        sides = [self._round_of_ours, self._round_of_bare]
        for side in sides if ours_first else reversed(sides):
            gc.collect()
            await side()

    async def _round_of_ours(self) -> None:
        ours, singles, jobs = self._ours, self._singles, self._jobs
        self.awaited.ours.append(singles / await ours.awaited(singles))
        self.gathered.ours.append(singles / await ours.gathered(singles))
        self.batched.ours.append(jobs / await ours.batched(jobs))
        count, seconds = await ours.consume()
        self.consumed.ours.append(count / seconds)

    async def _round_of_bare(self) -> None:
        bare, singles, jobs = self._bare, self._singles, self._jobs
        if bare is None:
            return
        self.awaited.bare.append(singles / await bare.awaited(singles))
        self.batched.bare.append(jobs / await bare.batched(jobs))
        count, seconds = await bare.consume()
        self.consumed.bare.append(count / seconds)


async def measure(url: str, jobs: int, rounds: int, progress: Progress) -> Report:
    """Measure the broker at ``url`` and leave nothing behind. Raises as brokers do."""
    async with AsyncExitStack() as stack:
        ours, bare = _sides(url)
        for side in (ours, bare):  # bare is closed first, and sweeps for both
            if side is not None:
                stack.push_async_callback(side.close)
                await side.open()
        before, loop = ours.weigh(), type(asyncio.get_running_loop()).__module__.partition(".")[0]
        progress("warming up")
        await Rounds(ours, bare, min(jobs, WARM_UP)).run(ours_first=True)
        work = Rounds(ours, bare, jobs)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            await work.run(ours_first=number % 2 == 0)
        progress("latency on an idle worker")
        latencies = await ours.latencies(min(jobs, LATENCIES))
        head = (ours.broker.url, jobs, rounds, f"Python {sys.version.split()[0]}", loop)
        return _report(head, work, latencies, Memory(before_mb=_megabytes(before), rss_mb=_megabytes(ours.rss)))


def _report(head: tuple[str, int, int, str, str], work: Rounds, latencies: Sequence[float], memory: Memory) -> Report:
    broker, jobs, rounds, python, loop = head
    single = work.awaited.rate()
    return Report(
        broker=broker,
        jobs=jobs,
        rounds=rounds,
        python=python,
        loop=loop,
        publish=Publishing(
            awaited_per_s=single.per_s,
            gathered_per_s=work.gathered.rate().per_s,
            ratio=single.ratio,
            ratio_min=single.ratio_min,
            ratio_max=single.ratio_max,
        ),
        send_many=work.batched.rate(),
        consume=work.consumed.rate(),
        latency=_latency(latencies),
        memory=memory,
        bare=BareRates(
            publish_per_s=work.awaited.bare_rate(),
            send_many_per_s=work.batched.bare_rate(),
            consume_per_s=work.consumed.bare_rate(),
        ),
    )


def _sides(url: str) -> tuple[Ours, Bare | None]:
    """Both sides, on names that nobody else uses."""
    unique = f"penstock-bench-{os.urandom(6).hex()}"
    scheme = url.partition("://")[0].lower()
    if scheme == "memory":
        return Ours(f"memory://{unique}", unique), None
    if scheme == "sqlite":
        path, query = urlsplit(url).path[1:], urlsplit(url).query
        if path in {"", ":memory:"}:
            raise InvalidURL("bench needs a SQLite file, as in sqlite:///jobs.db: it makes its own ones beside it")
        file = f"{path}.{unique}"
        return Ours(f"sqlite:///{file}{'?' * bool(query)}{query}", unique), SqliteBare(Path(f"{file}-bare"), Path(file))
    ours = Ours(url, unique)
    return ours, RedisBare(url, f"{unique}:bare", (unique, f"{unique}:retry", f"{unique}:dlq"))


def _latency(seconds: Sequence[float]) -> Latency:
    ordered = sorted(seconds)
    p50, p99 = (ordered[min(int(len(ordered) * part), len(ordered) - 1)] for part in (0.5, 0.99))
    return Latency(p50_ms=round(p50 * 1000, 3), p99_ms=round(p99 * 1000, 3), samples=len(ordered))


def _median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two: the standard library's costs a megabyte, and memory is measured here."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _megabytes(size: int) -> float:
    return round(size / 1e6, 1)
