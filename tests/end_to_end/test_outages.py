"""A broker that dies under load: what it had acknowledged is done, and the workers heal by themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from penstock import BrokerError, ConnectionFailed, Producer, open_broker
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.servers.redis_server import OwnServer

MakeFleet = Callable[..., Fleet]

KILLS = 2


class Load:
    """Sends jobs one by one until told to stop, and remembers which of them the broker has acknowledged."""

    def __init__(self, url: str, stream: str) -> None:
        self._broker = open_broker(url)
        self._producer = Producer(self._broker, stream, Job, default_type="job")
        self._next = 1
        self.acknowledged: set[int] = set()
        self.failures: list[Exception] = []
        self._tasks = [asyncio.create_task(self._send()) for _ in range(5)]

    async def _send(self) -> None:
        while True:
            number, self._next = self._next, self._next + 1
            try:
                await self._producer.send(Job(number, seconds=0.002))
                self.acknowledged.add(number)
                await asyncio.sleep(0.002)
            except BrokerError as error:
                self.failures.append(error)
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._broker.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_server_killed_under_load_loses_nothing_it_had_acknowledged_and_workers_come_back(
    durable_server: OwnServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(durable_server.url, lease=3.0)
    members = await fleet.start_ready(2)
    load = Load(durable_server.url, fleet.settings.stream)
    try:
        for kill in range(1, KILLS + 1):
            before = len(load.acknowledged)
            await fleet.until(lambda before=before: len(load.acknowledged) > before + 300)
            durable_server.kill()
            await fleet.until(lambda kill=kill: all(len(fleet.seen("unready", pid=m.pid)) >= kill for m in members))
            durable_server.start()
            await fleet.until(lambda kill=kill: all(len(fleet.seen("ready", pid=m.pid)) > kill for m in members))
    finally:
        await load.stop()
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert load.acknowledged - set(fleet.executions()) == set()
    assert {type(error) for error in load.failures} == {ConnectionFailed}
    for member in members:
        assert member.alive
        assert len(fleet.seen("ready", pid=member.pid)) == KILLS + 1
        outages = [line for line in member.log if "broker unavailable" in line]
        assert KILLS == len(outages), outages


async def test_a_database_locked_by_somebody_else_is_an_outage_that_costs_no_job_and_no_duplicate(
    tmp_path: Path, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(f"sqlite:///{tmp_path / 'jobs.db'}?timeout=0.2", lease=10.0, concurrency=2)
    await fleet.send(*(Job(n, seconds=0.01) for n in range(1, 201)))
    (member,) = await fleet.start_ready()
    await fleet.until(lambda: len(fleet.seen("end")) > 20)
    with closing(sqlite3.connect(tmp_path / "jobs.db", timeout=10, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await fleet.until(lambda: any("broker unavailable" in line for line in member.log))
        other.execute("ROLLBACK")
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert {number: len(starts) for number, starts in fleet.executions().items()} == dict.fromkeys(range(1, 201), 1)
    assert {line.attempt for line in fleet.seen("start")} == {0}


@pytest.mark.slow
async def test_a_server_frozen_for_longer_than_the_lease_loses_nothing_and_what_runs_twice_is_told(
    durable_server: OwnServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(durable_server.url, lease=0.5, interval=0.1)
    members = await fleet.start_ready(2)
    pid = durable_server.call("INFO", "server")["process_id"]
    load = Load(durable_server.url, fleet.settings.stream)
    try:
        for _ in range(3):
            before = len(load.acknowledged)
            await fleet.until(lambda before=before: len(load.acknowledged) > before + 200)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(1.5)  # three leases: what nobody can renew lapses
            os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)
        await load.stop()
    stats = await fleet.until_empty()
    twice = [number for number, starts in fleet.executions().items() if len(starts) > 1]
    told = [line for member in members for line in member.log if "lease lost" in line or "lease was lost" in line]
    assert stats.dead == 0
    assert load.acknowledged - set(fleet.executions()) == set()
    assert len(twice) <= len(told)


async def test_a_worker_whose_server_is_gone_stops_all_the_same_and_its_job_comes_back(
    durable_server: OwnServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(durable_server.url, lease=1.0, drain=0.5, interval=0.2)
    (told,) = await fleet.start_ready()
    await fleet.send(Job(1, "notice", 3.0))
    await fleet.until(lambda: len(fleet.seen("start")) == 1)
    durable_server.kill()
    told.signal(signal.SIGTERM)
    assert await fleet.exited(told, 15.0) == 0, told.log
    durable_server.start()
    fleet.start()
    await fleet.until(lambda: len(fleet.seen("end")) == 1)
    await fleet.until_empty()
    assert len(fleet.executions()[1]) == 2
