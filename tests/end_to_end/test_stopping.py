"""Workers that are told to stop: nothing is lost, nothing runs twice, no attempt is spent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock import open_broker
from penstock.broker import Broker, Subscription
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job

ROUNDS = int(os.environ.get("PENSTOCK_E2E_ROUNDS", "20"))
DRAIN = 5.0

MakeFleet = Callable[..., Fleet]


@pytest.mark.slow
@pytest.mark.timeout(60 + ROUNDS * 10)
async def test_sigterm_at_random_points_under_load_makes_no_duplicate_and_loses_nothing(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet, dice, sent = make_fleet(main_url, drain=DRAIN, lease=5.0), random.Random(11), 0
    await fleet.start_ready(3)
    for _ in range(ROUNDS):
        await fleet.send(*(Job(n, seconds=dice.uniform(0.0, 0.02)) for n in range(sent + 1, sent + 301)))
        sent += 300
        await asyncio.sleep(dice.uniform(0.0, 0.2))  # the random point
        await fleet.until(lambda: bool(fleet.ready))
        told = dice.choice(fleet.ready)
        began = time.monotonic()
        told.signal(signal.SIGTERM)
        fleet.start()
        assert await fleet.exited(told, DRAIN + 5.0) == 0, told.log
        assert time.monotonic() - began < DRAIN
    stats = await fleet.until_empty()
    executions = fleet.executions()
    assert stats.dead == 0
    assert set(executions) == set(range(1, sent + 1))
    assert {number: starts for number, starts in executions.items() if len(starts) > 1} == {}
    assert {start.attempt for starts in executions.values() for start in starts} == {0}


async def test_what_does_not_end_within_the_drain_is_released_with_no_attempt_counted(
    any_url: str, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(any_url, drain=0.5, lease=30.0)
    (told,) = await fleet.start_ready()
    await fleet.send(Job(1, seconds=2.0))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    told.signal(signal.SIGTERM)
    assert await fleet.exited(told, 5.0) == 0, told.log
    fleet.start()
    await fleet.until(lambda: len(fleet.seen("end")) == 1)
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert [start.attempt for start in fleet.executions()[1]] == [0, 0]


async def test_a_second_sigterm_releases_at_once(any_url: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(any_url, drain=60.0, lease=30.0)
    (told,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 5.0))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    told.signal(signal.SIGTERM)
    await fleet.until(lambda: len(fleet.seen("stopping")) == 1)
    told.signal(signal.SIGTERM)
    assert await fleet.exited(told, 30.0) == 0, told.log  # long before the drain is over
    assert fleet.seen("end") == []
    fleet.start()
    await fleet.until(lambda: len(fleet.seen("end")) == 1)
    await fleet.until_empty()
    assert [start.attempt for start in fleet.executions()[1]] == [0, 0]


async def test_a_quiet_worker_finishes_what_it_has_and_takes_nothing_new(any_url: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(any_url)
    (quiet,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 0.5))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    quiet.signal(signal.SIGTSTP)
    await fleet.until(lambda: len(fleet.seen("unready", pid=quiet.pid)) == 1)
    await fleet.send(Job(2))
    await fleet.until(lambda: len(fleet.seen("end", number=1)) == 1)
    (other,) = await fleet.start_ready()
    await fleet.until(lambda: len(fleet.seen("end", number=2)) == 1)
    await fleet.until_empty()
    assert [start.pid for start in fleet.executions()[2]] == [other.pid]
    assert quiet.alive


async def test_a_plain_function_that_outlives_the_drain_does_not_keep_the_process(
    any_url: str, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(any_url, drain=0.5, lease=30.0)
    (told,) = await fleet.start_ready()
    await fleet.send(Job(1, seconds=20.0), type="thread")
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    told.signal(signal.SIGTERM)
    assert await fleet.exited(told, 5.0) == 0, told.log
    (other,) = fleet.start()
    await fleet.until(lambda: bool(fleet.seen("start", pid=other.pid)))
    assert [start.attempt for start in fleet.executions()[1]] == [0, 0]
    assert fleet.seen("end") == []


async def test_a_fetch_that_is_cancelled_while_it_connects_ends_at_whatever_step_it_was(redis_url: str) -> None:
    async def fetch_for_ever(broker: Broker[Any]) -> None:
        while True:
            await broker.fetch(Subscription(source="s", lease=5.0), 10, 0.001)

    for step in range(200):
        broker = open_broker(redis_url)
        fetching = asyncio.create_task(fetch_for_ever(broker))
        for _ in range(step % 40):
            await asyncio.sleep(0)
        fetching.cancel()
        done, _ = await asyncio.wait([fetching], timeout=2.0)
        assert done, f"still fetching although cancelled at step {step % 40}"
        await broker.close()
