"""Medians, spreads and ratios of interleaved rounds. Pure: numbers in, numbers out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NOISY = 0.30  # a spread beyond this is said aloud
RATES = ("single_per_s", "bulk_per_s", "drain_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One peer in one round."""

    single_per_s: float
    bulk_per_s: float
    drain_per_s: float
    p50_ms: float
    p99_ms: float
    rss_mb: float
    jobs: int


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, and how far they lie apart."""

    median: float
    least: float
    most: float

    @property
    def spread(self) -> float:
        """(most - least) / median."""
        return (self.most - self.least) / self.median if self.median else 0.0


def figure(values: Sequence[float]) -> Figure:
    """Of at least one value."""
    return Figure(statistics.median(values), min(values), max(values))


def of(samples: Sequence[Sample], name: str) -> Figure:
    """The figure of one column."""
    return figure([float(getattr(sample, name)) for sample in samples])


def ratio(samples: Sequence[Sample], bare: Sequence[Sample], name: str) -> Figure:
    """Each round is divided by the bare loop's of the same round, so that what slowed both down cancels out."""
    pairs = zip(samples, bare, strict=True)
    return figure([getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs])


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank; 0.5 is the median."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def noise(samples: Sequence[Sample]) -> float:
    """The widest spread of a peer's rates."""
    return max(of(samples, name).spread for name in RATES)


@dataclass(frozen=True, slots=True)
class Amount:
    """How many jobs a round sends singly and in bulk; the worker then drains all of them."""

    singles: int
    bulk: int


FIRST = Amount(200, 800)  # before anything is known
LIMITS = (200, 200_000)


def amount(seen: Sample, seconds: float) -> Amount:
    """So many jobs that sending singly takes half of ``seconds`` at most, and the drain about all of it."""
    least, most = LIMITS
    total = min(most, max(2 * least, int(seen.drain_per_s * seconds)))
    singles = min(total // 2, max(least, int(seen.single_per_s * seconds / 2)))
    return Amount(singles, max(least, total - singles))
