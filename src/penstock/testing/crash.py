"""Killing a real process at a named point, from inside: ``kill -9`` where it hurts most.

A worker program under test wraps its broker with ``crashing`` and calls ``reached`` in its handlers. Nothing happens
unless ``PENSTOCK_CRASH_AT`` names one of the points, such as ``before_settle``, or ``before_settle:3`` for the third
time it is reached. Production code knows nothing of it.

====================  ======================================================================================
``before_start``      messages have been fetched; the process does not know yet
``mid_handler``       a handler has begun; where it calls ``reached("mid_handler")``
``after_effect``      a handler has caused its effect; where it calls ``reached("after_effect")``
``before_settle``     the outcome is known here, and not to the broker
``after_settle``      the broker has the outcome; the process does not know yet
``during_reclaim``    another worker's messages have been taken over; the process does not know yet
``during_promote``    delayed messages have been moved; the process does not know yet
``during_publish``    the broker has the messages; their sender does not know yet
====================  ======================================================================================
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from ..broker import Broker, Promoted
from ..errors import ConfigurationError
from .wrapper import WrappedBroker

VARIABLE = "PENSTOCK_CRASH_AT"
BEFORE = {"settle": "before_settle"}
AFTER = {
    "fetch": "before_start",
    "settle": "after_settle",
    "reclaim": "during_reclaim",
    "promote_due": "during_promote",
    "publish": "during_publish",
}
POINTS = (*BEFORE.values(), *AFTER.values(), "mid_handler", "after_effect")

_passed: Counter[str] = Counter()


def reached(point: str) -> None:
    """Die here, if this is the point where the environment wants this process to die."""
    wanted, _, nth = os.environ.get(VARIABLE, "").partition(":")
    if wanted and wanted not in POINTS:
        raise ConfigurationError(f"{VARIABLE} is one of {', '.join(POINTS)}, got {wanted!r}")
    if point == wanted:
        _passed[point] += 1
        if _passed[point] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def crashing(broker: Broker[Any]) -> Broker[Any]:
    """``broker``, which dies where the environment says; ``broker`` itself if it says nothing."""
    return CrashingBroker(broker) if os.environ.get(VARIABLE) else broker


class CrashingBroker(WrappedBroker):
    """A broker whose process dies at a named point. Calls that had nothing to do reach no point."""

    async def around(self, verb: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if verb in BEFORE:
            reached(BEFORE[verb])
        result = await call()
        if verb in AFTER and (verb == "settle" or _did_something(result)):
            reached(AFTER[verb])
        return result


def _did_something(result: Any) -> bool:
    return bool(result.count) if isinstance(result, Promoted) else bool(result)
