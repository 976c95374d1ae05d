"""Time as a dependency.

The engine never asks the machine for the time, sleeps or rolls dice by itself: it is handed a ``Clock`` and a
``random.Random``. A test or a simulation hands in its own and decides how time passes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

# CLOCK_BOOTTIME goes on while a machine is suspended, as the broker's clock does: a lease that lapsed meanwhile
# must look lapsed.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the engine needs to know of time. All values are seconds."""

    def time(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back, goes on during a suspend."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; cancelling is safe."""
        ...


class SystemClock:
    """The machine's own clock."""

    __slots__ = ()

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()


async def wait_until(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait for ``event``, at most ``seconds``. True if it was set."""
    if event.is_set():
        return True
    waiter = asyncio.ensure_future(event.wait())
    sleeper = asyncio.ensure_future(clock.sleep(max(seconds, 0.0)))
    try:
        await asyncio.wait((waiter, sleeper), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        sleeper.cancel()
    return event.is_set()
