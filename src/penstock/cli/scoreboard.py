"""The supervisor's books: what its children report, how often and why they were started again, who reads the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..contrib.fleet_metrics import Family, FleetMetrics, Sample
from .process import Process

REASONS = ("crash", "exit", "jobs", "memory", "reload")


class Place(Protocol):
    """Where a child may be."""

    process: Process | None


class Scoreboard:
    """Metrics of all children as of one worker. ``families`` may be asked from any thread."""

    def __init__(self) -> None:
        self._metrics = FleetMetrics()
        self._restarts: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._sampler: Process | None = None

    def heard(self, process: Process) -> None:
        """Take down a report."""
        if process.report is not None and process.report.metrics is not None:
            self._metrics.report(process.number, process.report.metrics, sampled=process.report.sampled)

    def ended(self, process: Process) -> None:
        """A child is gone: its totals stay."""
        self._metrics.ended(process.number)

    def restarted(self, reason: str) -> None:
        """A child was started in the place of another."""
        self._restarts[reason] += 1

    def appoint(self, slots: Sequence[Place]) -> None:
        """Have one ready child read the gauges that are the broker's, the same one for as long as that is ready."""
        if self._sampler is not None and self._sampler.ready and not self._sampler.retired:
            return
        chosen = next((slot.process for slot in slots if slot.process is not None and slot.process.ready), None)
        if chosen is self._sampler:
            return
        for process in (self._sampler, chosen):
            if process is not None and not process.gone.done():
                process.duty(sample=process is chosen)
        self._sampler = chosen

    def families(self, *, wanted: int, ready: int, all_ready: bool) -> list[Family]:
        """The metrics of all children, ended ones included, and those of the supervisor."""
        families = [family for family in self._metrics.families() if family.name != "penstock_ready"]
        gauges = (
            ("penstock_ready", "1 while every child gets answers from its broker", float(all_ready)),
            ("penstock_children_wanted", "Worker processes that should be at work", float(wanted)),
            ("penstock_children_ready", "Worker processes that are", float(ready)),
        )
        families += [Family(name, "gauge", text, [Sample(name, {}, value)]) for name, text, value in gauges]
        name = "penstock_child_restarts"
        restarts = [Sample(f"{name}_total", {"reason": why}, float(count)) for why, count in self._restarts.items()]
        return [*families, Family(name, "counter", "Worker processes started in the place of others", restarts)]
