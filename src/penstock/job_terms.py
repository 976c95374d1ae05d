"""On which terms one job is queued: what the fluent chain says of it.

A priority is a lane: jobs of ``emails`` with priority ``high`` wait in the queue ``emails:high``, and workers look into
the lanes strictly in the order of ``PRIORITIES``. So a priority is real on every broker, however many jobs wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, TypeAlias, cast

from .checks import at_least_one, finite, not_negative, positive
from .errors import ArgumentError

Priority: TypeAlias = Literal["critical", "high", "default", "low"] | int

PRIORITIES: Final = ("critical", "high", "default", "low")
CRITICAL: Final = 10  # from this number on
LONGEST_BACKOFF: Final = 3600.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be said of one job; ``None`` where nothing was said.

    ``delay``: seconds. ``backoff``: seconds before the second attempt, and the factor from one wait to the next.
    ``group``: jobs of one group run one after the other, in the order of their pushes.
    """

    queue: str | None = None
    connection: str | None = None
    priority: str | None = None
    delay: float | None = None
    backoff: tuple[float, float] | None = None
    max_attempts: int | None = None
    group: str | None = None

    def over(self, other: Terms) -> Terms:
        """These terms, and where they say nothing the other ones."""
        said = {name: value for name in Terms.__slots__ if (value := getattr(self, name)) is not None}
        return replace(other, **said)

    @property
    def lane(self) -> str:
        """The queue that it waits in."""
        return lane(self.queue or "default", self.priority or "default")

    def headers(self) -> dict[str, Any]:
        """What the worker must know, under the names of ``SerializedJob``."""
        found: dict[str, Any] = {}
        if self.max_attempts is not None:
            found["maxAttempts"] = self.max_attempts
        if self.backoff is not None:
            found["retryAfterSeconds"], found["retryMultiplier"] = self.backoff
        return found


def terms_in(options: Mapping[str, Any]) -> Terms:
    """What the options of a class say, which are named as the fields of ``Terms``. Raises ``ConfigurationError``."""
    said = Fluent()
    for name, say in (
        ("queue", said.on_queue),
        ("connection", said.on_connection),
        ("priority", said.with_priority),
        ("delay", said.delay),
        ("max_attempts", said.attempts),
    ):
        if options.get(name) is not None:
            say(options[name])
    if options.get("backoff") is not None:
        said.backoff(*checked_backoff(options["backoff"]))
    return said.said


def terms_of(headers: Mapping[str, Any]) -> Terms:
    """What a message's headers say; what is no number there says nothing."""
    most, wait, factor = (headers.get(name) for name in ("maxAttempts", "retryAfterSeconds", "retryMultiplier"))
    return Terms(
        max_attempts=most if type(most) is int and most > 0 else None,
        backoff=(_number(wait, 1.0), _number(factor, 2.0)) if wait is not None or factor is not None else None,
    )


def backoff_delay(backoff: tuple[float, float] | None, failures: int) -> float:
    """Seconds before the next attempt after so many failures: ``seconds * multiplier ** (failures - 1)``, an hour at most."""
    seconds, multiplier = backoff or (1.0, 2.0)
    try:
        return min(seconds * multiplier ** (failures - 1), LONGEST_BACKOFF)
    except OverflowError:
        return LONGEST_BACKOFF


def lane(queue: str, priority: str) -> str:
    """The queue that jobs of a priority wait in."""
    return queue if priority == "default" else f"{queue}:{priority}"


def lanes(queue: str) -> tuple[str, ...]:
    """The lanes of a queue, the most urgent first."""
    return tuple(lane(queue, priority) for priority in PRIORITIES)


def priority_of(priority: Any) -> str:
    """The name of a priority. Of numbers, 10 and more are critical, 1 to 9 high, 0 default, those below low."""
    if isinstance(priority, str) and priority in PRIORITIES:
        return priority
    if isinstance(priority, int) and not isinstance(priority, bool):
        return "critical" if priority >= CRITICAL else "high" if priority > 0 else "low" if priority < 0 else "default"
    raise ArgumentError(f"a priority is one of {', '.join(PRIORITIES)}, or a whole number; got {priority!r:.100}")


class Fluent:
    """The chain: each call says one thing more and returns the same object."""

    _terms: Terms = Terms()

    @property
    def said(self) -> Terms:
        """What was said so far."""
        return self._terms

    def on_queue(self, name: str) -> Self:
        """Put it in this queue."""
        return self._say(queue=_text("queue", name))

    def on_connection(self, name: str) -> Self:
        """Send it by the connection of this name."""
        return self._say(connection=_text("connection", name))

    def with_priority(self, priority: Priority) -> Self:
        """``critical``, ``high``, ``default`` or ``low``; or a number, 0 being the default and more being more urgent."""
        return self._say(priority=priority_of(priority))

    def delay(self, seconds: float) -> Self:
        """Run it so many seconds from now at the earliest."""
        not_negative("delay, in seconds,", seconds)
        finite("delay, in seconds,", seconds)
        return self._say(delay=seconds)

    def backoff(self, seconds: float, multiplier: float = 2.0) -> Self:
        """Wait ``seconds`` before the second attempt, and ``multiplier`` times as long before each further one."""
        return self._say(backoff=checked_backoff((seconds, multiplier)))

    def attempts(self, most: int) -> Self:
        """Run it so many times at most before it is a dead letter."""
        at_least_one("attempts", most)
        return self._say(max_attempts=most)

    def in_group(self, name: str) -> Self:
        """Let it wait for all jobs of this group that were pushed to the same queue before it."""
        return self._say(group=_text("group", name))

    def _say(self, **said: Any) -> Self:
        self._terms = replace(self._terms, **said)
        return self


def checked_backoff(given: Any) -> tuple[float, float]:
    """Seconds and multiplier. Raises ``ConfigurationError``."""
    if isinstance(given, int | float):
        given = (given, 2.0)
    if not isinstance(given, tuple | list) or len(cast("Any", given)) != 2:
        raise ArgumentError(f"a backoff is seconds, or (seconds, multiplier); got {given!r:.100}")
    seconds, multiplier = cast("tuple[float, float]", tuple(cast("Any", given)))
    not_negative("backoff, in seconds,", seconds)
    finite("backoff, in seconds,", seconds)
    positive("the multiplier of a backoff", multiplier)
    finite("the multiplier of a backoff", multiplier)
    return seconds, multiplier


def _text(what: str, given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ArgumentError(f"the name of a {what} is a text, not empty; got {given!r:.100}")
    return given


def _number(given: Any, otherwise: float) -> float:
    return given if type(given) in {int, float} and 0 <= given < float("inf") else otherwise
