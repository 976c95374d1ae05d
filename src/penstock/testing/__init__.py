"""What users and driver authors need to test with: a manual clock and the conformance suite."""

from __future__ import annotations

from .clock import ManualClock

__all__ = ["ManualClock"]
