"""When a job is to run: an interval or a moment, told apart by size as Sidekiq does."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TypeAlias

from .errors import ArgumentError
from .job_options import RELATIVE_MAX

Moment: TypeAlias = float | timedelta | datetime


def moment(when: Moment, now: float) -> float | None:
    """Seconds since the epoch, or ``None`` for at once.

    Less than 1e9 is an interval from now, anything else seconds since the epoch; what lies in the past is at once.
    """
    seconds = _seconds(when)
    at = now + seconds if seconds < RELATIVE_MAX else seconds
    return at if at > now else None


def _seconds(when: object) -> float:
    if isinstance(when, timedelta):
        return when.total_seconds()
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ArgumentError(f"{when!r} has no time zone and may be any of a day of moments; add one, such as UTC")
        return when.timestamp()
    if isinstance(when, bool) or not isinstance(when, int | float) or not math.isfinite(when):
        raise ArgumentError(
            f"when a job is to run is a number of seconds, a timedelta, or a datetime with a time zone, got {when!r}"
        )
    return when
