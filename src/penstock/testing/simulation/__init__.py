"""Deterministic simulation of a fleet of workers: see ``simulation``."""

from __future__ import annotations

from .network import SimulatedBroker
from .script import Job, Script, Step
from .simulation import Report, Simulation

__all__ = ["Job", "Report", "Script", "SimulatedBroker", "Simulation", "Step"]
