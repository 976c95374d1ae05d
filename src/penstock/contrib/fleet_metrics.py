"""The metrics of several processes as those of one: what is added up, what is taken once, what is kept.

1. Counters and histograms are added up. Those of a process that has ended stay in the sum: a counter never goes back.
2. A gauge of a process, such as the handlers it runs, is added up over the processes that live.
3. A gauge of the broker, such as the size of a stream, is the same whoever asks: it is that of the process that
   sampled it last, and stays until somebody samples it again.
4. What describes a process and has no sum (its start, its limit of open files) is the greatest.

Plain values, no client library: ``contrib.prometheus`` reads and serves them.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import TypeAlias

import msgspec

OF_BROKER = frozenset(
    f"penstock_{name}" for name in ("stream_size", "retry_queue_depth", "dlq_depth", "pel_size", "lag")
)
GREATEST = frozenset({"process_start_time_seconds", "process_max_fds"})
ADDED_UP = frozenset({"counter", "histogram"})

_Series: TypeAlias = "tuple[str, tuple[tuple[str, str], ...]]"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with all its values. ``kind`` as Prometheus says it: counter, gauge, histogram."""

    name: str
    kind: str
    text: str
    samples: list[Sample]


class FleetMetrics:
    """Keeps what each process reported last, and the totals of those that have ended. Safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._latest: dict[int, list[Family]] = {}
        self._ended: dict[str, dict[_Series, float]] = {}
        self._of_broker: dict[str, Family] = {}
        self._known: dict[str, Family] = {}

    def report(self, process: int, families: Iterable[Family], *, sampled: bool) -> None:
        """Take what ``process`` says now. ``sampled``: whether its gauges of the broker are to be believed."""
        families = list(families)
        with self._lock:
            self._latest[process] = families
            for family in families:
                self._known.setdefault(family.name, msgspec.structs.replace(family, samples=[]))
                if sampled and family.name in OF_BROKER and family.samples:
                    self._of_broker[family.name] = family

    def ended(self, process: int) -> None:
        """A process is gone: its totals stay, its gauges go."""
        with self._lock:
            for family in self._latest.pop(process, ()):
                if family.kind in ADDED_UP:
                    _add(self._ended.setdefault(family.name, {}), family.samples)

    def families(self) -> list[Family]:
        """All of it as if it were one process."""
        with self._lock:
            return [self._joined(family) for family in self._known.values()]

    def _joined(self, known: Family) -> Family:
        if known.name in OF_BROKER:
            return self._of_broker.get(known.name, known)
        totals = dict(self._ended.get(known.name, {}))
        for families in self._latest.values():
            for family in families:
                if family.name == known.name:
                    _add(totals, family.samples, greatest=known.name in GREATEST)
        samples = [Sample(name, dict(labels), value) for (name, labels), value in totals.items()]
        return msgspec.structs.replace(known, samples=samples)


def _add(totals: dict[_Series, float], samples: Iterable[Sample], *, greatest: bool = False) -> None:
    for sample in samples:
        series = (sample.name, tuple(sample.labels.items()))
        before = totals.get(series, 0.0)
        totals[series] = max(before, sample.value) if greatest else before + sample.value
