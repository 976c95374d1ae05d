"""What a supervisor decides, without doing it: when a child is due for a fresh one, when to start again, when to give up."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

from . import codes
from .link import Report

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a child is started again
STEADY = 60.0  # seconds of work after which former crashes are forgotten
MOST_FAILED_STARTS = 10  # in a row, nobody being ready: then it is no child's fault but the program's
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a supervisor was told.

    ``processes``: how many children. ``max_jobs``, ``max_memory`` (in MiB): when one is replaced by a fresh one.
    ``patience``: seconds that a replacement may take to be ready.
    """

    processes: int
    max_jobs: int | None = None
    max_memory: float | None = None
    patience: float = 120.0


def jobs_of_a_child(max_jobs: int | None, dice: random.Random) -> int | None:
    """Its own limit, up to a fifth below the common one, so that children started together do not end together."""
    return max_jobs if max_jobs is None else max(1, round(max_jobs * dice.uniform(0.8, 1.0)))


def due(report: Report, max_jobs: int | None, max_memory: float | None) -> str | None:
    """Why a child is to be replaced, if it is. One that has done nothing yet would be replaced by its like."""
    if not report.jobs:
        return None
    if max_jobs is not None and report.jobs >= max_jobs:
        return "jobs"
    if max_memory is not None and report.memory >= max_memory * MIB:
        return "memory"
    return None


def failures_after(before: int, worked: float | None) -> int:
    """Failures in a row, now that one more child has ended. ``worked``: seconds since it was ready, if it ever was."""
    if worked is None:
        return max(before + 1, 2)
    return 1 if worked >= STEADY else before + 1


def pause_after(failures: int, dice: random.Random) -> float:
    """Seconds to wait: none after a first crash, then more and more."""
    if failures < 2:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 16)) * dice.uniform(0.5, 1.0)


def hopeless(code: int, failed_starts: int, *, ever_ready: bool, any_ready: bool) -> bool:
    """Whether to end, now that a child has ended before it was ready.

    A program of which no child was ever ready is broken, or its configuration. One that has worked may have met bad
    luck, until it has had too much of it. A broker that cannot be reached is neither: it is waited for.
    """
    if code == codes.UNHEALTHY or any_ready:
        return False
    return not ever_ready or failed_starts >= MOST_FAILED_STARTS


def exit_code(code: int) -> int:
    """That of a supervisor which gives up because a child ended with ``code``: never 0, and as a shell says signals."""
    return 128 - code if code < 0 else code or codes.FAILED


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
