"""Backoffs and retry policies: pure decisions."""

from __future__ import annotations

import random

import pytest

from penstock.errors import ConfigurationError
from penstock.outcome import DeadLetter, Retry
from penstock.retry import Constant, Delays, Exponential, ExponentialJitter, Linear, RetryPolicy

ERROR = OSError("no")


def test_each_backoff_waits_as_its_name_says() -> None:
    attempts = range(5)
    assert [Constant(delay=3.0)(n) for n in attempts] == [3.0] * 5
    assert [Linear(base=1.0, step=2.0, cap=6.0)(n) for n in attempts] == [1.0, 3.0, 5.0, 6.0, 6.0]
    assert [Exponential(base=0.5, factor=2.0, cap=3.0)(n) for n in attempts] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [Delays([1.0, 5.0])(n) for n in attempts] == [1.0, 5.0, 5.0, 5.0, 5.0]


def test_an_exponential_wait_stays_at_its_cap_however_often_it_failed() -> None:
    assert Exponential(cap=60.0)(10_000) == 60.0


def test_full_jitter_stays_between_nothing_and_the_exponential_wait() -> None:
    backoff = ExponentialJitter(base=1.0, cap=10.0, random=random.Random(3))
    waits = [[backoff(attempt) for _ in range(200)] for attempt in range(6)]
    for attempt, found in enumerate(waits):
        ceiling = min(10.0, 2.0**attempt)
        assert min(found) >= 0.0
        assert max(found) <= ceiling
        assert max(found) > ceiling * 0.8
        assert min(found) < ceiling * 0.2


def test_max_attempts_counts_executions() -> None:
    policy = RetryPolicy(max_attempts=3, backoff=Constant(delay=1.0))
    assert policy.decide(0, ERROR) == Retry(1.0, ERROR)
    assert policy.decide(1, ERROR) == Retry(1.0, ERROR)
    assert policy.decide(2, ERROR) == DeadLetter("maxAttempts(3)", ERROR)
    assert RetryPolicy(max_attempts=1).decide(0, ERROR) == DeadLetter("maxAttempts(1)", ERROR)


def test_a_wish_to_retry_counts_unless_told_otherwise_and_keeps_its_delay() -> None:
    policy = RetryPolicy(max_attempts=2, backoff=Constant(delay=1.0))
    assert policy.again(0, Retry(7.0)) == Retry(7.0)
    assert policy.again(0, Retry()) == Retry(1.0)
    assert policy.again(1, Retry(7.0)) == DeadLetter("maxAttempts(2)")
    assert policy.again(9, Retry(counts=False)) == Retry(1.0, counts=False)


def test_the_most_specific_policy_of_an_exception_decides() -> None:
    policy = RetryPolicy(
        max_attempts=2,
        per_exception={
            OSError: RetryPolicy(max_attempts=3, backoff=Constant(delay=1.0)),
            ConnectionError: RetryPolicy(max_attempts=9, backoff=Constant(delay=2.0)),
        },
    )
    refused, missing, other = ConnectionRefusedError(), FileNotFoundError(), ValueError()
    assert policy.decide(5, refused) == Retry(2.0, refused)
    assert policy.decide(2, missing) == DeadLetter("maxAttempts(3)", missing)
    assert policy.decide(1, other) == DeadLetter("maxAttempts(2)", other)


def test_what_is_not_retryable_is_dead_at_once() -> None:
    policy = RetryPolicy(is_retryable=lambda error: not isinstance(error, ValueError))
    error = ValueError("never")
    assert policy.decide(0, error) == DeadLetter("non-retryable", error)
    assert isinstance(policy.decide(0, ERROR), Retry)


def test_nonsense_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        RetryPolicy(max_attempts=0)
    with pytest.raises(ConfigurationError, match="empty"):
        Delays([])


def test_a_backoff_below_nothing_is_no_wait() -> None:
    assert RetryPolicy(backoff=(lambda _: -3.0)).again(0, Retry()) == Retry(0.0)
