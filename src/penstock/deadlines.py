"""Deadlines of handlers: one timer for all that run, instead of one for each call.

What runs under a deadline is in a set, at most as many as there are slots. The timer sleeps until the earliest of them
and then looks through the set, so that a handler which ends in time costs an entry and its removal, and nothing is set
or cleared in the event loop for it.

A coroutine is cancelled at its deadline, and exactly that cancellation becomes ``HandlerTimeout``: one that came from
somebody else as well stays a cancellation. A handler may ignore it; then it goes on, and its result counts. A thread
cannot be interrupted: its context says ``timed_out``, and its result counts whenever it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .clock import Clock
from .context import Context
from .errors import HandlerTimeout

logger = logging.getLogger("penstock")

TIMEOUT = "timeout"  # the header with a message's own timeout, in seconds
EXPIRES_AT = "expiresAt"  # the header with the moment from which a message is not worth running: epoch, milliseconds
TICK = 0.01  # seconds between two looks at least: with many slots and as many deadlines, looking must not be all we do
FAREWELL = 5.0  # seconds that a cancelled handler may take to clean up before it is said to ignore its cancellation
LONGEST = 1e9  # seconds: a stranger's number may be beyond what can be added to a time
NEVER = float("inf")


class Deadlines:
    """The timer of one consumer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.running: set[Watch] = set()
        self._timer: asyncio.Task[None] | None = None
        self._wakes_at = NEVER

    def begin(self, watch: Watch) -> None:
        """Have an eye on it from now on."""
        watch.deadline = deadline = self._clock.monotonic() + watch.seconds
        self.running.add(watch)
        if deadline < self._wakes_at:
            self.close()
            self._wakes_at = deadline
            self._timer = asyncio.create_task(self._run(), name="deadlines")

    def late(self, watch: Watch) -> float:
        """Seconds since its deadline."""
        return self._clock.monotonic() - watch.expired_at

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._wakes_at = None, NEVER

    async def _run(self) -> None:
        """Sleep until the earliest deadline, again and again, while anything runs under one."""
        clock, running = self._clock, self.running
        while (earliest := min((watch.deadline for watch in running), default=NEVER)) < NEVER:
            self._wakes_at = earliest
            await clock.sleep(max(earliest - clock.monotonic(), TICK))
            now = clock.monotonic()
            for watch in [watch for watch in running if watch.deadline <= now]:
                watch.fire(now)
        self._timer, self._wakes_at = None, NEVER


class Watch:
    """One execution under a deadline, as a context manager. Raises ``HandlerTimeout`` in place of its cancellation.

    ``task``: what to cancel; ``None`` for a thread. Made for each message, so it does no more than it must.
    """

    __slots__ = ("_contexts", "_deadlines", "_task", "deadline", "expired_at", "fired", "seconds")

    def __init__(
        self, deadlines: Deadlines, seconds: float, contexts: tuple[Context, ...], task: asyncio.Task[Any] | None
    ) -> None:
        self._deadlines, self.seconds, self._contexts, self._task = deadlines, seconds, contexts, task
        self.fired = False

    def __enter__(self) -> None:
        self._deadlines.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.running.discard(self)
        if not self.fired or self._task is None:
            return
        # Taken back whatever the handler made of it: the next job on this slot must not see it. One that is left is a
        # stop's, which may have come before this execution as well.
        left = self._task.uncancel()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            if not left:
                raise HandlerTimeout(f"the handler ran for longer than {self.seconds:g} s") from error
        elif error is None:
            text = "finished %.1f s after its timeout of %g s; what it came to counts"
            late = self._deadlines.late(self)
            logger.warning(text, late, self.seconds, extra=self._contexts[0].fields())

    def fire(self, now: float) -> None:
        """The deadline has passed; or, the second time, what was cancelled is still there."""
        if self.fired:
            self.deadline = NEVER
            text = "still running %g s after its timeout of %g s: it ignores its cancellation, and keeps its slot"
            logger.warning(text, FAREWELL, self.seconds, extra=self._contexts[0].fields())
            return
        self.fired, self.expired_at = True, self.deadline
        for context in self._contexts:
            context.timed_out = True
        if self._task is None:
            self.deadline = NEVER
            text = "its timeout of %g s is over, but a thread cannot be interrupted: it goes on, and keeps its slot"
            logger.warning(text, self.seconds, extra=self._contexts[0].fields())
        else:
            self.deadline = now + FAREWELL
            self._task.cancel()


def has_expired(headers: Mapping[str, Any], now: float) -> bool:
    """Whether a message's time is over at ``now``; what is no number in the header says nothing."""
    moment = _number(headers.get(EXPIRES_AT))
    return moment is not None and now * 1000 >= moment


def limit(own: float | None, headers: Mapping[str, Any]) -> float | None:
    """The smaller of a consumer's timeout and a message's own; what is no number of seconds in a header says nothing."""
    wish = _number(headers.get(TIMEOUT))
    if wish is None or not 0 < wish < LONGEST:
        return own
    return wish if own is None else min(own, wish)


def _number(value: Any) -> float | None:
    return value if type(value) in {int, float} else None
