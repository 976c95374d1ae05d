"""An event loop whose time is virtual: when nobody can run, it jumps to the moment when the next one can.

An hour of waiting takes no time, and the same program with the same seed takes the same steps. There is no I/O on such
a loop and no threads: both would bring real time, and with it chance, back in. A program in which everybody waits for
somebody else fails at once with ``Deadlock``.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_700_000_000.0  # what the wall clock says when a virtual loop starts


class Deadlock(RuntimeError):
    """Everybody waits and no timer is set: nothing will ever happen again."""


class _Timeline:
    """Stands where a loop has its selector: a wait for I/O is a step in time."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.now += timeout
        return []

    def close(self) -> None: ...


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. Use it through ``run_virtual`` or ``asyncio.Runner(loop_factory=VirtualLoop)``."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Timeline()

    def time(self) -> float:
        return self._selector.now

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_running() and asyncio._get_running_loop() is not self:  # noqa: SLF001 get_running_loop would raise
            raise RuntimeError(f"a virtual loop has no threads; called from {threading.current_thread().name}")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        raise RuntimeError(f"a virtual loop has no threads; asked to run {func!r} in one")

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""


class VirtualClock:
    """The clock of a virtual loop, for one machine of a simulated world.

    ``drift``: seconds by which its wall clock is wrong. With ``dice`` each sleep takes up to ``lateness`` longer, as
    timers may: different dice wake sleepers in a different order.
    """

    def __init__(self, *, drift: float = 0.0, dice: random.Random | None = None, lateness: float = 0.01) -> None:
        self._drift, self._dice, self._lateness = drift, dice, lateness

    def time(self) -> float:
        return EPOCH + self._drift + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        if self._dice is not None and seconds > 0:
            seconds += self._lateness * self._dice.random()
        await asyncio.sleep(seconds)


def run_virtual(program: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(program)
