"""Consumer idempotency: the middleware against the store in memory and a manual clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.context import Context
from penstock.errors import ConfigurationError, ConnectionFailed
from penstock.message import Envelope, Message
from penstock.middleware.deduplicate import GLIDE_KIT, Deduplicate
from penstock.outcome import ACK, Ack, DeadLetter, Outcome, Release, Retry
from penstock.store import Claim
from penstock.stores.memory import MemoryStore
from penstock.testing import ManualClock


class Handler:
    """Counts its calls and answers with what it is told to."""

    def __init__(self, outcome: Outcome | Exception = ACK) -> None:
        self.outcome, self.calls = outcome, 0

    async def __call__(self, envelope: Envelope[Any]) -> Outcome:
        self.calls += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def envelope(ident: str = "1", key: str | None = "k", group: str = "g") -> Envelope[Any]:
    message = Message(id=ident, type="t", body=b"", key=key)
    context = Context(
        id=ident,
        type="t",
        stream="s",
        group=group,
        worker="w",
        attempt=0,
        max_attempts=5,
        key=key,
        headers={},
        enqueued_at=None,
    )
    return Envelope(payload=None, message=message, context=context)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def once(store: MemoryStore, clock: ManualClock) -> Deduplicate:
    return Deduplicate(store, pending=30, done=100, clock=clock)


async def test_a_duplicate_of_what_is_done_is_acked_without_running(once: Deduplicate) -> None:
    handler = Handler()
    assert Ack() == await once(envelope("1"), handler)
    assert Ack() == await once(envelope("2"), handler)
    assert 1 == handler.calls


async def test_a_message_without_a_key_runs_every_time(once: Deduplicate) -> None:
    handler = Handler()
    await once(envelope("1", key=None), handler)
    await once(envelope("2", key=None), handler)
    assert 2 == handler.calls


async def test_a_duplicate_of_what_is_running_is_handed_back(once: Deduplicate) -> None:
    going, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Envelope[Any]) -> Outcome:
        going.set()
        await go.wait()
        return Ack()

    first = asyncio.create_task(once(envelope("1"), slow))
    await going.wait()
    handler = Handler()
    assert Release(0.5) == await once(envelope("2"), handler)
    assert 0 == handler.calls
    go.set()
    await first
    assert Ack() == await once(envelope("2"), handler)
    assert 0 == handler.calls


@pytest.mark.parametrize("outcome", [Retry(1.0), DeadLetter("no"), Release()])
async def test_what_is_not_acked_may_run_again(once: Deduplicate, outcome: Outcome) -> None:
    handler = Handler(outcome)
    assert outcome == await once(envelope("1"), handler)
    handler.outcome = Ack()
    assert Ack() == await once(envelope("2"), handler)
    assert 2 == handler.calls


async def test_a_failure_frees_the_key_and_goes_on_to_the_policy(once: Deduplicate) -> None:
    handler = Handler(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        await once(envelope("1"), handler)
    handler.outcome = Ack()
    assert Ack() == await once(envelope("2"), handler)


async def test_the_same_message_redelivered_after_a_crash_runs_at_once(once: Deduplicate, store: MemoryStore) -> None:
    await store.reserve("consumed:s:g:k", "1", 30)
    handler = Handler()
    assert Ack() == await once(envelope("1"), handler)
    assert 1 == handler.calls


async def test_groups_do_not_share_keys(once: Deduplicate) -> None:
    handler = Handler()
    await once(envelope("1", group="a"), handler)
    await once(envelope("1", group="b"), handler)
    assert 2 == handler.calls


async def test_glide_kit_keys_are_shared_by_groups(store: MemoryStore) -> None:
    once, handler = Deduplicate(store, template=GLIDE_KIT), Handler()
    await once(envelope("1", group="a"), handler)
    await once(envelope("2", group="b"), handler)
    assert 1 == handler.calls
    assert await store.reserve("consumed:s:k", "x", 1) is Claim.DONE


async def test_glide_kit_keys_are_reserved_in_the_workers_name_but_run_once_in_it(store: MemoryStore) -> None:
    once, going, go = Deduplicate(store, template=GLIDE_KIT), asyncio.Event(), asyncio.Event()

    async def slow(_: Envelope[Any]) -> Outcome:
        going.set()
        await go.wait()
        return Ack()

    first = asyncio.create_task(once(envelope("1"), slow))
    await going.wait()
    assert await store.renew("consumed:s:k", "w", 60)
    assert Release(0.5) == await once(envelope("2"), Handler())
    go.set()
    assert Ack() == await first


async def test_a_long_handler_keeps_its_reservation(once: Deduplicate, clock: ManualClock) -> None:
    go, handler = asyncio.Event(), Handler()

    async def slow(_: Envelope[Any]) -> Outcome:
        await go.wait()
        return Ack()

    first = asyncio.create_task(once(envelope("1"), slow))
    for _ in range(10):
        await clock.advance(10)
    assert Release(0.5) == await once(envelope("2"), handler)
    go.set()
    assert Ack() == await first


async def test_a_key_is_forgotten_after_its_window(once: Deduplicate, clock: ManualClock) -> None:
    handler = Handler()
    await once(envelope("1"), handler)
    await clock.advance(101)
    await once(envelope("2"), handler)
    assert 2 == handler.calls


async def test_a_store_that_is_away_costs_an_attempt_and_no_effect(clock: ManualClock) -> None:
    class Away(MemoryStore):
        async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
            raise ConnectionFailed

    handler = Handler()
    with pytest.raises(ConnectionFailed):
        await Deduplicate(Away(clock), clock=clock)(envelope(), handler)
    assert 0 == handler.calls


def test_windows_must_be_positive(store: MemoryStore) -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        Deduplicate(store, done=0)
