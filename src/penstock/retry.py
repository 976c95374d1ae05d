"""Deciding, without any I/O, whether a failed execution is tried again, and when.

A ``Backoff`` is any callable ``attempt -> seconds`` (attempt 0 is the first failure). A ``RetryPolicy`` turns an error
into an outcome.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from .checks import at_least_one, not_negative
from .errors import ConfigurationError
from .outcome import DeadLetter, Retry

Backoff: TypeAlias = Callable[[int], float]

_DICE = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same wait every time."""

    delay: float

    def __post_init__(self) -> None:
        not_negative("delay, in seconds,", self.delay)

    def __call__(self, attempt: int) -> float:
        return self.delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """``base``, ``base + step``, ``base + 2 * step`` … up to ``cap``."""

    base: float
    step: float
    cap: float = float("inf")

    def __post_init__(self) -> None:
        for name in ("base", "step", "cap"):
            not_negative(name, getattr(self, name))

    def __call__(self, attempt: int) -> float:
        return min(self.cap, self.base + self.step * attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """``base``, ``base * factor``, ``base * factor**2`` … up to ``cap``."""

    base: float = 0.25
    factor: float = 2.0
    cap: float = 60.0

    def __post_init__(self) -> None:
        for name in ("base", "factor", "cap"):
            not_negative(name, getattr(self, name))

    def __call__(self, attempt: int) -> float:
        try:
            return min(self.cap, self.base * self.factor**attempt)
        except OverflowError:
            return self.cap


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialJitter:
    """Full jitter: a uniform wait between 0 and the exponential one, so that a crowd of failures spreads out."""

    base: float = 0.25
    cap: float = 60.0
    factor: float = 2.0
    random: random.Random = field(default=_DICE, repr=False, compare=False)

    def __post_init__(self) -> None:
        Exponential(base=self.base, factor=self.factor, cap=self.cap)

    def __call__(self, attempt: int) -> float:
        ceiling = Exponential(base=self.base, factor=self.factor, cap=self.cap)(attempt)
        return self.random.uniform(0.0, ceiling)


@dataclass(frozen=True, slots=True)
class Delays:
    """The waits of a list, one after another; the last one again and again."""

    delays: Sequence[float]

    def __post_init__(self) -> None:
        if not self.delays:
            raise ConfigurationError("Delays needs at least one wait in seconds, got an empty list")
        for delay in self.delays:
            not_negative("each of the delays, in seconds,", delay)

    def __call__(self, attempt: int) -> float:
        return self.delays[min(attempt, len(self.delays) - 1)]


def _as_backoff(given: Any) -> Backoff:
    if callable(given):
        return cast("Backoff", given)
    if isinstance(given, int | float):
        return Constant(delay=given)
    if isinstance(given, list | tuple):
        return Delays(cast("Sequence[float]", given))
    raise ConfigurationError(
        f"backoff is a callable from attempt to seconds, a list of seconds, or a number of them; got {given!r:.100}"
    )


def _always(_error: BaseException) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed message is tried again.

    ``max_attempts``: executions in total, crashes included. ``backoff``: a callable; a list of seconds is ``Delays``, a
    number of them ``Constant``. ``is_retryable``: errors for which it returns ``False``
    go to the dead letters at once. ``per_exception``: an own policy for some exception classes; the most specific
    class wins, and its ``max_attempts`` is compared with the attempts so far, whatever failed before.
    """

    max_attempts: int = 5
    backoff: Backoff | Sequence[float] | float = field(default_factory=ExponentialJitter)
    is_retryable: Callable[[BaseException], bool] = _always
    per_exception: Mapping[type[BaseException], RetryPolicy] = field(
        default_factory=dict[type[BaseException], "RetryPolicy"]
    )

    def __post_init__(self) -> None:
        at_least_one("max_attempts, the executions in total,", self.max_attempts)
        object.__setattr__(self, "backoff", _as_backoff(self.backoff))

    def decide(self, attempt: int, error: BaseException) -> Retry | DeadLetter:
        """The outcome of execution number ``attempt`` (from 0) that raised ``error``."""
        policy = self.policy_for(error)
        if not policy.is_retryable(error):
            return DeadLetter("non-retryable", error)
        return policy.again(attempt, Retry(error=error))

    def again(self, attempt: int, wish: Retry) -> Retry | DeadLetter:
        """Hold a wish to retry against the limit, and give it a delay if it has none."""
        if wish.counts and attempt + 1 >= self.max_attempts:
            return DeadLetter(f"maxAttempts({self.max_attempts})", wish.error)
        if wish.delay is not None:
            return wish
        return Retry(max(0.0, cast("Backoff", self.backoff)(attempt)), wish.error, wish.counts)

    def policy_for(self, error: BaseException) -> RetryPolicy:
        """The policy that judges ``error``."""
        for cls in type(error).__mro__:
            if cls in self.per_exception:
                return self.per_exception[cls]
        return self
