"""``kill -9`` at every named point, with real processes on real brokers: nothing is lost, and who runs twice had to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import penstock
from penstock import ConfigurationError, open_broker
from penstock.brokers.memory import MemoryBroker
from penstock.testing import crash
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job

PROGRAM = Path(__file__).with_name("crashing.py")
JOBS = 30


@pytest.fixture(params=["sqlite", "redis", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server = request.getfixturevalue(f"{request.param}_server")
    server.flush()
    return str(server.url)


@pytest.fixture
def fleet(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr("tests.end_to_end.fleet.PROGRAM", PROGRAM)
    monkeypatch.delenv(crash.VARIABLE, raising=False)
    fleet = Fleet(url, tmp_path, lease=1.0, interval=0.2, wait=0.2, concurrency=3)
    yield fleet
    fleet.close()


async def die_at(fleet: Fleet, point: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """One worker that dies there; its process id."""
    monkeypatch.setenv(crash.VARIABLE, point)
    (member,) = fleet.start()
    monkeypatch.delenv(crash.VARIABLE)
    assert await fleet.exited(member) == -signal.SIGKILL, fleet.tail()
    fleet.killed.add(member.pid)
    return member.pid


async def finished(fleet: Fleet) -> dict[int, int]:
    """Let a worker that does not die do the rest; how often each job was run to its end."""
    fleet.start()
    stats = await fleet.until_empty()
    assert stats.dead == 0
    return {number: len(fleet.seen("end", number=number)) for number in range(1, JOBS + 1)}


@pytest.mark.parametrize("point", ["before_start", "mid_handler", "after_effect:2", "before_settle", "after_settle"])
async def test_a_worker_that_dies_there_loses_nothing_and_repeats_only_what_it_held(
    fleet: Fleet, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.send(*(Job(n) for n in range(1, JOBS + 1)))
    dead = await die_at(fleet, point, monkeypatch)
    before = {line.number for line in fleet.seen("end", pid=dead)}
    assert bool(before) == (point not in {"before_start", "mid_handler"})
    runs = await finished(fleet)
    assert min(runs.values()) == 1
    assert {number for number, ends in runs.items() if ends > 1} <= before
    assert fleet.unexplained() == {}
    if point == "after_settle":
        assert sum(runs.values()) - JOBS < len(before)  # what was settled is not run again


async def test_a_worker_that_dies_taking_over_from_a_dead_one_loses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.send(*(Job(n) for n in range(1, JOBS + 1)))
    await die_at(fleet, "before_start", monkeypatch)
    dead = await die_at(fleet, "during_reclaim", monkeypatch)
    before = {line.number for line in fleet.seen("end", pid=dead)}  # what the first one had not fetched, if anything
    runs = await finished(fleet)
    assert min(runs.values()) == 1
    assert {number for number, ends in runs.items() if ends > 1} <= before


@pytest.mark.parametrize("url", ["redis", "valkey"], indirect=True)  # SQL has no such move
async def test_a_worker_that_dies_moving_what_is_due_loses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.send(*(Job(n, "fail") for n in range(1, JOBS + 1)))
    dead = await die_at(fleet, "during_promote", monkeypatch)
    before = {line.number for line in fleet.seen("end", pid=dead)}  # it may have read and run what it had just moved
    runs = await finished(fleet)
    assert min(runs.values()) >= 1
    assert {number for number, ends in runs.items() if ends > 1} <= before


async def test_a_sender_that_dies_with_its_message_at_the_broker_has_sent_it_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = subprocess.run(
        [sys.executable, str(PROGRAM), msgspec.json.encode(fleet.settings).decode(), str(JOBS)],
        env={
            **os.environ,
            crash.VARIABLE: "during_publish:5",
            "PYTHONPATH": os.pathsep.join((str(Path(penstock.__file__).parents[1]), str(PROGRAM.parents[2]))),
        },
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert sender.returncode == -signal.SIGKILL, sender.stderr
    runs = await finished(fleet)
    assert {number for number, ends in runs.items() if ends == 1} == {1, 2, 3, 4, 5}
    assert set(runs.values()) == {0, 1}


def test_nothing_is_wrapped_and_nobody_dies_unless_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(crash.VARIABLE, raising=False)
    broker: Any = open_broker("memory://")
    assert crash.crashing(broker) is broker
    for point in crash.POINTS:
        crash.reached(point)


def test_a_point_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(crash.VARIABLE, "before_lunch")
    with pytest.raises(ConfigurationError, match="before_lunch"):
        crash.reached("mid_handler")
    assert isinstance(crash.crashing(MemoryBroker()), crash.CrashingBroker)
