"""Workers that die: nothing is lost, what runs twice is explained by a death, and a killer ends as a dead letter."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from penstock.broker import Subscription, SupportsTrim
from penstock.brokers.redis_streams import RedisStreamsBroker
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job

JOBS = int(os.environ.get("PENSTOCK_E2E_JOBS", "5000"))
KILL_EVERY = float(os.environ.get("PENSTOCK_E2E_KILL_EVERY", "1"))  # seconds
UVLOOP = os.environ.get("PENSTOCK_E2E_UVLOOP") == "1"
WITHIN = 60.0 + JOBS / 100  # seconds for all of it

MakeFleet = Callable[..., Fleet]


@pytest.mark.slow
@pytest.mark.timeout(WITHIN + 60)
async def test_with_a_worker_killed_every_second_every_job_runs_and_only_the_killed_ones_twice(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet, dice = make_fleet(main_url, uvloop=UVLOOP), random.Random(7)
    await fleet.start_ready(3)
    await fleet.send(*(Job(n, seconds=0.015) for n in range(1, JOBS + 1)))
    began = time.monotonic()
    while len(fleet.executions()) < JOBS:
        assert time.monotonic() < began + WITHIN, fleet.tail()
        fleet.kill(dice.choice(fleet.alive))
        fleet.start()
        await asyncio.sleep(KILL_EVERY)  # the pace of the killings is what the test is about
    stats = await fleet.until_empty()
    runs = Counter(len(starts) for starts in fleet.executions().values())
    print(f"{JOBS} jobs, {len(fleet.killed)} kills, {time.monotonic() - began:.1f} s, executions: {dict(runs)}")
    assert set(fleet.executions()) == set(range(1, JOBS + 1))
    assert fleet.unexplained() == {}
    assert stats.dead == 0
    assert len(fleet.killed) >= 2
    if main_url.startswith("redis"):
        assert await _consumers_left(fleet) <= len(fleet.alive) + 1


@pytest.mark.slow
@pytest.mark.timeout(WITHIN + 60)
async def test_retries_and_dead_letters_survive_the_killings_each_dead_letter_exactly_once(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet, dice, count = make_fleet(main_url, uvloop=UVLOOP, max_attempts=9), random.Random(13), JOBS // 5
    actions = {n: ("sleep", "flaky", "bury")[n % 3] for n in range(1, count + 1)}
    await fleet.start_ready(3)
    await fleet.send(*(Job(n, action, 0.03) for n, action in actions.items()))
    buried = {n for n, action in actions.items() if action == "bury"}
    deadline = time.monotonic() + WITHIN
    while len({line.number for line in fleet.seen("end")}) < count - len(buried) or len(fleet.killed) < 5:
        assert time.monotonic() < deadline, fleet.tail()
        fleet.kill(dice.choice(fleet.alive))
        fleet.start()
        await asyncio.sleep(KILL_EVERY / 2)
    stats = await fleet.until_empty()
    letters = await fleet.dead()
    assert {line.number for line in fleet.seen("end")} == set(actions) - buried
    assert Counter(letter.reason for letter in letters) == {"buried": len(buried)}
    assert sorted(letter.meta for letter in letters) == sorted(buried)
    assert stats.dead == len(buried)
    assert set(fleet.executions()) == set(actions)


async def _consumers_left(fleet: Fleet) -> int:
    """Names in the group once the long silent are swept away; what was handed back has a name of its own."""
    broker = RedisStreamsBroker.from_url(fleet.settings.url, owner_gone_after=0.1)
    subscription = Subscription(source=fleet.settings.stream, lease=0.1)
    assert isinstance(broker, SupportsTrim)
    try:
        deadline = time.monotonic() + 20.0
        while True:
            await broker.trim(subscription)
            count = len(await broker._client.call("XINFO", "CONSUMERS", fleet.settings.stream, "default"))
            if count <= len(fleet.alive) + 1 or time.monotonic() > deadline:
                return count
            await asyncio.sleep(0.1)
    finally:
        await broker.close()


async def test_a_job_that_kills_its_worker_ends_as_poison_and_its_neighbours_are_done(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(main_url, lease=1.0, interval=0.2, max_attempts=3)
    await fleet.send(*(Job(n, seconds=0.01) for n in range(1, 51)))
    await fleet.send(Job(666, "die"))
    await fleet.send(*(Job(n, seconds=0.01) for n in range(51, 101)))
    deadline = time.monotonic() + 60.0
    while not await fleet.dead():
        assert time.monotonic() < deadline, fleet.tail()
        for dead in [member for member in fleet.members if not member.alive]:
            fleet.killed.add(dead.pid)
        if not fleet.alive:
            fleet.start()
        await asyncio.sleep(0.05)
    await fleet.until_empty()
    (letter,) = await fleet.dead()
    executions = fleet.executions()
    assert letter.reason == "poison"
    assert letter.meta["deliveries"] == 4
    assert int(letter.meta["lastOwner"].split(":")[1]) in fleet.killed
    assert letter.meta["silentSeconds"] >= 1.0
    assert len(executions[666]) == 3
    assert {start.attempt for start in executions[666]} == {0, 1, 2}
    assert set(executions) == {*range(1, 101), 666}
    assert {line.number for line in fleet.seen("end")} == set(range(1, 101))
    assert fleet.unexplained() == {}


async def test_a_frozen_worker_loses_its_lease_and_its_outcome_is_refused(any_url: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(any_url, lease=1.0, interval=0.2)
    (frozen,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 1.5))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    await fleet.freeze(frozen)
    (other,) = await fleet.start_ready()
    await fleet.until(lambda: bool(fleet.seen("start", pid=other.pid)))
    await fleet.until(lambda: bool(fleet.seen("end", pid=other.pid)))
    await fleet.until_empty()
    frozen.signal(signal.SIGCONT)
    await fleet.until(lambda: bool(fleet.seen("lost", pid=frozen.pid) or fleet.seen("end", pid=frozen.pid)))
    await fleet.until(lambda: any("lease lost" in line for line in frozen.log))
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert [start.pid for start in fleet.executions()[1]] == [frozen.pid, other.pid]
    assert [start.attempt for start in fleet.executions()[1]] == [0, 1]
    assert not any("lease lost" in line for line in other.log)


async def test_a_job_sees_that_its_lease_is_lost_while_it_still_runs(main_url: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(main_url, lease=1.0, interval=0.2)
    (frozen,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 6.0))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    await fleet.freeze(frozen)
    (other,) = await fleet.start_ready()
    await fleet.until(lambda: bool(fleet.seen("start", pid=other.pid)))
    frozen.signal(signal.SIGCONT)
    await fleet.until(lambda: bool(fleet.seen("end", pid=other.pid)))
    await fleet.until(lambda: bool(fleet.seen("lost", pid=frozen.pid)))
    await fleet.until_empty()
    assert fleet.seen("end", pid=frozen.pid) == []
    assert len(fleet.executions()[1]) == 2


async def test_a_lone_worker_that_was_frozen_goes_on_with_its_job_instead_of_beginning_anew(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(main_url, lease=0.5, interval=0.1)
    (frozen,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 2.0))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    await fleet.freeze(frozen)
    await asyncio.sleep(1.0)  # longer than the lease: that nobody may renew it is what is tested
    frozen.signal(signal.SIGCONT)
    await fleet.until(lambda: bool(fleet.seen("end") or fleet.seen("lost")))
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert len(fleet.executions()[1]) == 1
