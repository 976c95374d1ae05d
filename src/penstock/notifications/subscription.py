"""One handler's subscription to a pattern: what it does with a message, what has become of its messages."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from ..clock import Clock
from ..context import Context
from ..outcome import ACK, Ack, DeadLetter, Outcome, Retry
from ..retry import RetryPolicy
from .hooks import Hooks
from .message import Notification
from .options import RetryDelay

logger = logging.getLogger("penstock")

NotificationHandler: TypeAlias = Callable[[Notification], Awaitable[Any]] | Callable[[Notification], Any]
Silence: TypeAlias = Literal["ack", "wait", "keep"]  # what it means if a handler ends and has said nothing
KEPT = DeadLetter("kept")  # of a dead letter: it stays
FALLBACK = 1.0  # seconds before a retry whose delay is no number


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStats:
    """``messages``: handled; ``retries``: executions that failed; ``failures``: messages given up.

    ``pending``: in a worker's hands, of this group in all processes; ``waiting``: to be fetched, ``None`` if the broker
    cannot say. ``last_message_at``: when the last one was handled, in seconds since the epoch, 0 for never.
    """

    messages: int
    retries: int
    failures: int
    last_message_at: float
    pending: int | None
    waiting: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a subscription handles its messages."""

    handler: NotificationHandler
    max_attempts: int
    retry_delay: RetryDelay
    exactly_once: bool = False
    silence: Silence = "ack"
    concurrency: int = 1
    payload_type: Any = Any


class Home(Protocol):
    """Where a subscription lives: all those of this process with one pattern and group."""

    pattern: str
    group: str

    async def changed(self) -> None: ...

    async def leave(self, subscription: NotificationSubscription, *, remove_pattern: bool) -> None: ...

    async def waiting(self) -> tuple[int | None, int | None]: ...


class NotificationSubscription:
    """What ``subscribe`` returns."""

    def __init__(self, home: Home, terms: Terms, hooks: Hooks, clock: Clock) -> None:
        self.id = str(uuid.uuid4())
        self.terms, self._home, self._hooks, self._clock = terms, home, hooks, clock
        self._policy = RetryPolicy(max_attempts=terms.max_attempts, backoff=0.0)
        self._paused = self.ended = False
        self._messages = self._retries = self._failures = 0
        self._last = 0.0

    def __repr__(self) -> str:
        return f"NotificationSubscription({self.pattern!r}, group={self.group!r})"

    @property
    def pattern(self) -> str:
        """What it subscribes to."""
        return self._home.pattern

    @property
    def group(self) -> str:
        """The readers that share the messages."""
        return self._home.group

    @property
    def is_paused(self) -> bool:
        """Whether it takes no messages for now."""
        return self._paused

    async def pause(self) -> None:
        """Take no messages until ``resume``; they wait, or others of this process with the pattern and group take them."""
        self._paused = True
        await self._home.changed()

    async def resume(self) -> None:
        """Go on, with what has waited."""
        self._paused = False
        await self._home.changed()

    async def unsubscribe(self, *, remove_pattern: bool = False) -> None:
        """Finish what has begun, and take no more. Idempotent.

        What is published from now on waits for the group, which may come back; with ``remove_pattern`` the group is
        gone, with what it has not read, unless another process reads as the same and the broker can tell (Redis).
        """
        if not self.ended:
            self.ended = True
            await self._home.leave(self, remove_pattern=remove_pattern)

    async def stats(self) -> SubscriptionStats:
        """What has become of its messages so far. Asks the broker for what is pending."""
        pending, waiting = await self._home.waiting()
        return SubscriptionStats(
            messages=self._messages,
            retries=self._retries,
            failures=self._failures,
            last_message_at=self._last,
            pending=pending,
            waiting=waiting,
        )

    def given_up(self) -> None:
        """A message of it became a dead letter without having run."""
        self._failures += 1

    async def handle(self, note: Notification) -> Outcome:
        """Run the handler, and say what becomes of the message."""
        try:
            await self._hooks.run("before_process", note)
            await self._call(note)
            if note.outcome is None and self.terms.silence == "wait":
                await note.decided()
        except Exception as error:  # noqa: BLE001 whatever it raises is for the hooks and the policy
            return await self._failed(note, error)
        if note.outcome is None and self.terms.silence == "keep":
            return KEPT
        outcome = note.outcome or ACK
        if not isinstance(outcome, Ack):
            return await self._unhandled(note, outcome)
        self._messages += 1
        self._last = self._clock.time()
        if self._hooks.has("after_process"):
            await self._hooks.tell("after_process", note)
        return outcome

    async def _call(self, note: Notification) -> None:
        handler = self.terms.handler
        if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004 a callable object
            await handler(note)
            return
        answer = await asyncio.to_thread(handler, note)
        if inspect.isawaitable(answer):
            await answer

    async def _failed(self, note: Notification, error: Exception) -> Outcome:
        await self._hooks.tell("on_error", note, error)
        if isinstance(note.outcome, Ack):  # it was done, and said so
            logger.error("a handler failed after it had acked", exc_info=error)
            self._messages += 1
            self._last = self._clock.time()
            return note.outcome
        self._retries += 1
        if note.outcome is not None:
            return self._limited(note, note.outcome, error)
        return self._limited(note, Retry(), error)

    async def _unhandled(self, note: Notification, outcome: Outcome) -> Outcome:
        """It came to its end, but wants the message again, or given up."""
        self._retries += isinstance(outcome, Retry)
        return self._limited(note, outcome, None)

    def _limited(self, note: Notification, wish: Outcome, error: Exception | None) -> Outcome:
        """The wish, held against the limit; a retry has its delay."""
        if isinstance(wish, Retry):
            delay = self._delay(note) if wish.delay is None else wish.delay
            wish = self._policy.again(note.attempt - 1, Retry(delay, wish.error or error))
        if isinstance(wish, DeadLetter):
            self._failures += 1
            if wish.error is None and error is not None:
                wish = DeadLetter(wish.reason, error, wish.meta)
        return wish

    def _delay(self, note: Notification) -> float:
        delay: Any = self.terms.retry_delay
        if callable(delay):
            try:
                delay = delay(note.attempt, note)
            except Exception:
                logger.exception("the retry_delay of %r failed; using %s seconds", self.pattern, FALLBACK)
                return FALLBACK
        if not isinstance(delay, int | float) or not math.isfinite(delay):
            logger.error("the retry_delay of %r must be a number of seconds, not %r", self.pattern, delay)
            return FALLBACK
        return max(0.0, float(delay))


def note_of(payload: Any, context: Context, pattern: str) -> Notification:
    """A message as its handler sees it."""
    return Notification(
        id=context.id,
        channel=context.type,
        payload=payload,
        attempt=context.attempt + 1,
        published_at=context.enqueued_at,
        pattern=pattern,
        group=context.group,
        key=context.key,
        headers=context.headers,
        context=context,
    )
