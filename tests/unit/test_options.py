"""Bad options and addresses are refused where they are given, with what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock import Claim, Consumer, Delays, Limits, Options, Prefetch, RetryDaemon, RetryPolicy, Worker, open_broker
from penstock.brokers.memory import MemoryBroker
from penstock.errors import ConfigurationError, InvalidURL
from penstock.retry import Constant, Exponential, ExponentialJitter, Linear

NAN = float("nan")


async def handle(_: dict[str, int]) -> None: ...


def consumer(**options: Any) -> Consumer[Any]:
    return Consumer(MemoryBroker(), "s", dict, handle, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prefetch(most=0),
        lambda: Prefetch(wait=0),
        lambda: Prefetch(wait=-1),
        lambda: Claim(min_idle=0),
        lambda: Claim(interval=0),
        lambda: Claim(max_per_tick=0),
        lambda: Options(start="bogus"),
        lambda: Options(threads=0),
        lambda: Limits(max_body=-1),
        lambda: Limits(unknown_type_grace=-1),
        lambda: Constant(delay=-1),
        lambda: Constant(delay=NAN),
        lambda: Linear(base=1, step=-1),
        lambda: Exponential(base=-1),
        lambda: ExponentialJitter(base=-1),
        lambda: ExponentialJitter(cap=NAN),
        lambda: Delays([]),
        lambda: Delays([1, -1]),
        lambda: RetryPolicy(max_attempts=0),
        lambda: RetryPolicy(max_attempts="5"),
        lambda: RetryPolicy(backoff="soon"),
        lambda: RetryPolicy(backoff=[1, -1]),
        lambda: consumer(concurrency=0),
        lambda: consumer(concurrency=2.5),
        lambda: consumer(retry=5),
        lambda: consumer(claim=30),
        lambda: Consumer("redis://localhost", "s", dict, handle),
        lambda: Consumer(MemoryBroker(), "s", dict, "handle"),
        lambda: Worker(Consumer),
        lambda: Worker(consumer(), drain=-1),
        Worker,
        lambda: open_broker("redis://localhost", retention="bogus"),
        lambda: open_broker("redis://localhost", nonsense=1),
        lambda: open_broker("redis://localhost", timeout=0),
        lambda: open_broker("redis://localhost", retention="limits", max_length=1.5),
        lambda: open_broker("redis://localhost", retention="limits", max_age=float("inf")),
        lambda: open_broker("redis://localhost", retention="limits", max_age=-1),
        lambda: open_broker("memory://", retention="bogus"),
        lambda: open_broker("memory://", nonsense=1),
        lambda: open_broker("sqlite://", retention="bogus"),
        lambda: open_broker("redis://localhost", look_around=0),
        lambda: RetryDaemon(open_broker("redis://localhost"), "s", tick=0),
        lambda: RetryDaemon(open_broker("redis://localhost"), "s", max_batch=0),
    ],
)
def test_a_bad_option_is_refused_where_it_is_given(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        make()
    assert any(word in str(refusal.value) for word in ("got", "needs", "there are"))


@pytest.mark.parametrize("url", [None, 5, "", "localhost", "memory://?x=1", "memory://a/b", "nosuch://x"])
def test_a_bad_address_is_refused(url: Any) -> None:
    with pytest.raises(InvalidURL):
        open_broker(url)


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
@pytest.mark.parametrize("retention", ["limits", "keep"])
def test_a_broker_without_a_history_refuses_to_keep_one_and_says_who_does(url: str, retention: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be had; use 'interest' or 'workqueue', or a redis://"):
        open_broker(url, retention=retention)


def test_an_unset_variable_is_guessed() -> None:
    with pytest.raises(InvalidURL, match="environment variable"):
        open_broker(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["REDIS://localhost", "Valkey://localhost:1", "MEMORY://"])
def test_a_scheme_may_be_written_in_capitals(url: str) -> None:
    assert "://" in open_broker(url).url


@pytest.mark.parametrize(("backoff", "waits"), [([1, 10], [1, 10, 10]), ((3,), [3, 3, 3]), (5, [5, 5, 5])])
def test_a_list_of_seconds_or_a_number_of_them_is_a_backoff(backoff: Any, waits: list[float]) -> None:
    policy = RetryPolicy(backoff=backoff)
    assert waits == [policy.decide(attempt, ValueError()).delay for attempt in range(3)]
