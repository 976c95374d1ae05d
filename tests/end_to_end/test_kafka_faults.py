"""Kafka with real workers: killed, cut off, their server killed; nothing is lost, and workers come back by themselves."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import do_without
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.end_to_end.test_outages import Load
from tests.servers.kafka_server import KafkaServer, OwnKafka, find_jars
from tests.servers.redis_server import ServerUnavailableError

MakeFleet = Callable[..., Fleet]

JOBS = 1000
TERMS: dict[str, Any] = {"lease": 6.0, "options": {"partitions": 6, "session": 1.5, "timeout": 3.0, "drain": 2.0}}


@pytest.fixture
def own_kafka() -> Iterator[OwnKafka]:
    try:
        server = OwnKafka(find_jars())
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_with_workers_killed_all_the_time_every_job_runs_and_only_the_killed_ones_twice(
    kafka_server: KafkaServer, make_fleet: MakeFleet
) -> None:
    kafka_server.flush()
    fleet, dice = make_fleet(kafka_server.url, **TERMS, concurrency=5), random.Random(7)
    await fleet.start_ready(3)
    await fleet.send(*(Job(n, "flaky" if n % 10 == 0 else "sleep", seconds=0.05) for n in range(1, JOBS + 1)))
    while len({line.number for line in fleet.seen("end")}) < JOBS:
        fleet.kill(dice.choice(fleet.alive))
        await fleet.start_ready()
        await asyncio.sleep(1.0)  # the pace of the killings is what the test is about
    stats = await fleet.until_empty()
    runs = Counter(len(starts) for starts in fleet.executions().values())
    print(f"{JOBS} jobs, {len(fleet.killed)} kills, executions: {dict(runs)}")
    assert {line.number for line in fleet.seen("end")} == set(range(1, JOBS + 1))
    assert stats.dead == 0
    assert len(fleet.killed) >= 2


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_kafka_killed_under_load_loses_nothing_and_workers_come_back(
    own_kafka: OwnKafka, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(own_kafka.url, **TERMS)
    members = await fleet.start_ready(2)
    load = Load(own_kafka.url, fleet.settings.stream)
    try:
        await fleet.until(lambda: len(load.acknowledged) > 200)
        own_kafka.kill()
        await fleet.until(lambda: all(fleet.seen("unready", pid=member.pid) for member in members))
        own_kafka.start()
        await fleet.until(lambda: all(len(fleet.seen("ready", pid=member.pid)) > 1 for member in members))
        before = len(load.acknowledged)
        await fleet.until(lambda: len(load.acknowledged) > before + 100)
    finally:
        await load.stop()
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert load.acknowledged - set(fleet.executions()) == set()
    for member in members:
        assert member.alive
        assert len([line for line in member.log if "broker unavailable" in line]) <= 2


@pytest.mark.timeout(120)
async def test_a_handler_that_blocks_its_loop_for_longer_than_the_session_keeps_its_message(
    kafka_server: KafkaServer, make_fleet: MakeFleet
) -> None:
    kafka_server.flush()
    fleet = make_fleet(kafka_server.url, lease=6.0, options={**TERMS["options"], "drain": 30.0})
    await fleet.send(Job(1, "block", 5.0))
    await fleet.start_ready()
    await fleet.until(lambda: bool(fleet.seen("start")))
    await fleet.start_ready()  # a rebalance in the middle of it; drained for less than the handler takes
    await fleet.until(lambda: bool(fleet.seen("end")))
    await fleet.until_empty()
    assert 1 == len(fleet.executions()[1])
