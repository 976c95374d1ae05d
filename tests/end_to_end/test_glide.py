"""Workers whose client is valkey-glide: their server dies, their handlers block, and they know how to live with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock import ConnectionFailed
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.end_to_end.test_outages import Load
from tests.servers.redis_server import OwnServer

MakeFleet = Callable[..., Fleet]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("glide_installed")]


@pytest.mark.timeout(180)
async def test_a_server_killed_under_load_loses_nothing_it_had_acknowledged_and_workers_come_back(
    durable_server: OwnServer, make_fleet: MakeFleet
) -> None:
    url = durable_server.url.replace("redis", "glide", 1)
    fleet = make_fleet(url, lease=3.0)
    members = await fleet.start_ready(2)
    load = Load(url, fleet.settings.stream)
    try:
        for kill in (1, 2):
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
    assert {type(error) for error in load.failures} <= {ConnectionFailed}
    for member in members:
        assert member.alive
        outages = [line for line in member.log if "broker unavailable" in line]
        assert outages
        assert not [line for line in member.log if "glide" in line.lower() and "broker unavailable" not in line]


@pytest.mark.timeout(120)
async def test_a_handler_that_blocks_the_loop_for_eight_leases_keeps_its_lease(
    durable_server: OwnServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(durable_server.url.replace("redis", "glide", 1), lease=1.0, interval=0.2, concurrency=1)
    await fleet.start_ready(2)
    await fleet.send(Job(1, "sleep", 8.0), Job(2, "block", 8.0))
    await fleet.until(lambda: len(fleet.seen("end")) + len(fleet.seen("lost")) >= 2, 60.0)
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert {number: len(starts) for number, starts in fleet.executions().items()} == {1: 1, 2: 1}
    assert fleet.seen("lost") == []
