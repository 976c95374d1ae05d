"""The life of a job that fails, as Sidekiq has it: pure decisions, made of the job, the error, the time and the dice.

1. A job raises. Its option ``retry`` says whether it runs again: ``False`` never, a number so many times, else the
   ``max_retries`` of the configuration, 25.
2. The failure is written into the payload (``failed``): what the hooks see, and what the broker keeps.
3. It is exhausted if it has had its retries, or, with ``retry_for``, if so many seconds have passed since it first failed.
4. Else the job's ``retry_in`` is asked: seconds, ``discard``, ``kill``, or anything else for the default, which is
   count⁴ + 15. To either some seconds are added by the dice, so that jobs which failed together do not return together.
5. An exhausted job asks its ``retries_exhausted``; then it is in the dead set, unless that or the job's option ``dead``
   says otherwise. Whoever is told of deaths is told in any case.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Final, Literal, TypeAlias, cast

from ..job import DISCARD, KILL
from .payload import Payload

Timestamps: TypeAlias = Literal["ms", "float"]
Fate: TypeAlias = Literal["again", "discard", "exhausted"]

UNREADABLE: Final = "!!! ERROR MESSAGE THREW AN ERROR !!!"
_MILLISECONDS = 1e11  # an integer from here on is milliseconds; in seconds it would be the year 5138
_MESSAGE_MAX = 10_000


class Skip(Exception):
    """A job ends here and has been taken care of, say by a rate limiter: it is neither done nor failed, only gone."""


class Shutdown(BaseException):
    """The process stops, and this job with it: it goes back to its queue as if it had never begun."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a job that failed. ``delay``: seconds, for one that runs again."""

    fate: Fate
    delay: float = 0.0


def is_retried(payload: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a failure of this job is handled at all. What the job does not say its class does."""
    wish = payload.get("retry")
    wish = options.get("retry", True) if wish is None else wish
    return wish is not None and wish is not False  # 0 is an answer: dead at the first failure


def failed(
    payload: Mapping[str, Any], error: BaseException, *, queue: str, count: int, now: float, timestamps: Timestamps
) -> Payload:
    """The payload of a job with its failure written in, which is number ``count``, from 0."""
    marked = dict(payload)
    marked["queue"] = payload.get("retry_queue") or queue
    marked["error_message"] = message_of(error)
    marked["error_class"] = type(error).__name__
    first = payload.get("retry_count") is None
    marked["failed_at" if first else "retried_at"] = stamp(now, timestamps)
    marked["retry_count"] = count
    return marked


def discarded(payload: Mapping[str, Any], now: float, timestamps: Timestamps) -> Payload:
    """The payload of a job of which nothing is kept, as those see it who are told of its death."""
    return {**payload, "discarded_at": stamp(now, timestamps)}


def is_exhausted(payload: Mapping[str, Any], options: Mapping[str, Any], *, now: float, max_retries: int) -> bool:
    """Whether a payload with its failure written in has had its retries."""
    period, first = payload.get("retry_for"), seconds(payload.get("failed_at"))
    if isinstance(period, int | float) and period is not False and first is not None:
        return first + period <= now
    wish = payload.get("retry")
    wish = options.get("retry") if wish is None else wish
    most = wish if isinstance(wish, int) and not isinstance(wish, bool) else max_retries
    return int(payload["retry_count"]) >= most


def verdict(answer: Any, count: int, dice: Random) -> Verdict:
    """What the answer of ``retry_in`` means for failure number ``count``."""
    if answer == DISCARD:
        return Verdict("discard")
    if answer == KILL:
        return Verdict("exhausted")
    wish, count = _whole(answer), max(count, 0)
    delay = wish if wish is not None and wish > 0 else default_delay(count)
    return Verdict("again", float(delay + dice.randrange(10 * (count + 1))))


def default_delay(count: int) -> int:
    """Seconds until the retry after failure number ``count``, without what the dice add."""
    return count**4 + 15


def is_kept(payload: Mapping[str, Any], answer: Any) -> bool:
    """Whether an exhausted job goes to the dead set, ``answer`` being that of its ``retries_exhausted``."""
    return payload.get("dead") is not False and answer != DISCARD


# ------------------------------------------------------------------------------------------------------------- errors


def caused_by_shutdown(error: BaseException, *, stopping: bool) -> bool:
    """Whether an error comes of the end of the process: of its own kind, or as the cause of another.

    ``stopping``: whether this task was cancelled by somebody; else a cancellation is the job's own failure.
    """
    kinds: tuple[type[BaseException], ...] = (Shutdown, asyncio.CancelledError) if stopping else (Shutdown,)
    return any(isinstance(each, kinds) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it; they may go round in a circle."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [cause for cause in (each.__cause__, each.__context__) if cause is not None]


def message_of(error: BaseException) -> str:
    """What an error says, as a text that any reader can bear."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 its own __str__ may raise anything
        text = UNREADABLE
    return text[:_MESSAGE_MAX].encode("utf-8", "replace").decode()


def recordable(error: BaseException) -> BaseException:
    """The error, or one of the same name and place in its stead if it cannot say what it is."""
    try:
        str(error)
    except Exception:  # noqa: BLE001 as above
        kind = cast("type[Exception]", type(type(error).__name__, (Exception,), {}))
        return kind(UNREADABLE).with_traceback(error.__traceback__)
    return error


# --------------------------------------------------------------------------------------------------------------- times


def stamp(now: float, timestamps: Timestamps) -> int | float:
    """A time as it stands in a payload."""
    return int(now * 1000) if timestamps == "ms" else now


def seconds(time: Any) -> float | None:
    """A time in a payload, as seconds since the epoch, whoever wrote it; ``None`` for what is no time."""
    if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
        return None
    return time / 1000 if isinstance(time, int) and time >= _MILLISECONDS else float(time)


def _whole(answer: Any) -> int | None:
    """An answer as whole seconds, if it can be one."""
    if isinstance(answer, timedelta):
        return int(answer.total_seconds())
    if answer is None or isinstance(answer, bool):
        return None
    try:
        return int(answer)
    except (TypeError, ValueError, OverflowError):
        return None


# --------------------------------------------------------------------------------------------------------------- hooks


def call_hook(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook with as many of the arguments, from the first, as it takes: ``lambda count: 60`` will do."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return hook(*arguments)
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return hook(*arguments)
    positional = [each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    return hook(*arguments[: len(positional)])
