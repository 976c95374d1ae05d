"""What users and driver authors need to test with.

``ManualClock``, ``VirtualLoop``, ``VirtualClock``, ``run_virtual``: time that passes when you say so, or at once.
``FlakyBroker``: any broker, failing on request. ``FaultProxy``: a bad network before a real server.
``Simulation``: a fleet of workers in a world full of trouble, from a seed. ``crashing``, ``reached``: real processes
that die at named points. ``penstock.testing.conformance`` and ``penstock.testing.state_machine`` test brokers; they
need pytest and hypothesis and are imported on their own.
"""

from __future__ import annotations

from .clock import ManualClock
from .crash import crashing, reached
from .flaky import FlakyBroker
from .proxy import FaultProxy
from .simulation import Simulation
from .virtual import Deadlock, VirtualClock, VirtualLoop, run_virtual

__all__ = [
    "Deadlock",
    "FaultProxy",
    "FlakyBroker",
    "ManualClock",
    "Simulation",
    "VirtualClock",
    "VirtualLoop",
    "crashing",
    "reached",
    "run_virtual",
]
