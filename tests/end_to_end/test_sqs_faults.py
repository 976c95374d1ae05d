"""SQS under workers that die, a server that dies and a network that fails: nothing is lost, and all heals by itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from penstock import Claim, Producer
from penstock.testing.proxy import FaultProxy
from tests.conftest import do_without
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.end_to_end.stage import Stage
from tests.servers import sqs_server as sqs
from tests.servers.redis_server import ServerUnavailableError
from tests.servers.sqs_server import OwnSqsServer, SqsServer

MakeFleet = Callable[..., Fleet]

JOBS = 1000


@pytest.fixture
def durable() -> Iterator[OwnSqsServer]:
    try:
        server = sqs.durable()
    except ServerUnavailableError as missing:
        do_without(missing)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
async def proxied(sqs_server: SqsServer) -> AsyncIterator[tuple[FaultProxy, Stage]]:
    """A network that can fail, and a stage behind it."""
    sqs_server.flush()
    host, _, port = sqs_server.endpoint.rpartition("/")[2].partition(":")
    async with FaultProxy(host, int(port)) as proxy:
        stage = Stage(f"sqs://local:local@127.0.0.1:{proxy.port}?region={sqs.REGION}&tls=false&timeout=3")
        yield proxy, stage
        proxy.heal()
        await stage.close()


@pytest.mark.slow
async def test_workers_killed_at_work_lose_nothing_and_only_what_they_held_runs_twice(
    sqs_server: SqsServer, make_fleet: MakeFleet
) -> None:
    sqs_server.flush()
    fleet, dice = make_fleet(sqs_server.url, lease=4.0), random.Random(7)
    await fleet.start_ready(2)
    await fleet.send(*(Job(n, seconds=0.02) for n in range(1, JOBS + 1)))
    for kill in range(1, 4):
        await fleet.until(lambda kill=kill: len(fleet.executions()) > JOBS * kill // 5)
        fleet.kill(dice.choice(fleet.alive))
        fleet.start()
    await fleet.until(lambda: len({line.number for line in fleet.seen("end")}) == JOBS)
    stats = await fleet.until_empty()
    runs = Counter(len(starts) for starts in fleet.executions().values())
    print(f"{JOBS} jobs, {len(fleet.killed)} kills, executions: {dict(runs)}")
    assert set(fleet.executions()) == set(range(1, JOBS + 1))
    assert fleet.unexplained() == {}
    assert stats.dead == 0


@pytest.mark.slow
async def test_a_server_that_is_killed_and_comes_back_finds_its_workers_waiting(
    durable: OwnSqsServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(durable.url, lease=6.0)
    (member,) = await fleet.start_ready(1)
    await fleet.send(*(Job(n, seconds=0.02) for n in range(1, 301)))
    await fleet.until(lambda: len(fleet.executions()) > 60)
    durable.kill()
    await fleet.until(lambda: bool(fleet.seen("unready", pid=member.pid)))
    durable.start()
    await fleet.until(lambda: len(fleet.seen("ready", pid=member.pid)) > 1)
    await fleet.until(lambda: len({line.number for line in fleet.seen("end")}) == 300)
    await fleet.until_empty()
    assert member.alive
    # A server that is starting may answer once and be away again: each of these is an outage
    assert (
        1
        <= len([line for line in member.log if "broker unavailable" in line])
        <= len(fleet.seen("ready", pid=member.pid))
    )


@pytest.mark.parametrize("fault", ["cut", "reset", "blackhole", "refuse"])
async def test_a_network_that_fails_is_an_outage_that_ends_by_itself(
    proxied: tuple[FaultProxy, Stage], fault: str
) -> None:
    proxy, stage = proxied
    seen: Counter[int] = Counter()

    async def handler(payload: dict[str, int]) -> None:
        seen[payload["n"]] += 1
        await asyncio.sleep(0.01)

    producer: Producer[dict[str, int]] = stage.producer(dict[str, int])
    await producer.send_many([{"n": n} for n in range(100)])
    worker = await stage.work(stage.consumer(dict[str, int], handler, claim=Claim(min_idle=5.0)))
    await stage.until(lambda: len(seen) > 20)
    getattr(proxy, fault)()
    if fault in {"blackhole", "refuse"}:
        began = time.monotonic()
        while worker.ready and time.monotonic() < began + 20:
            await asyncio.sleep(0.05)
        assert not worker.ready
    proxy.heal()
    await proxy.listen()
    await stage.until(lambda: set(seen) == set(range(100)))
    await stage.until(lambda: worker.ready)
    await stage.until_empty()
    assert [] == list(await stage.dead())


async def test_a_handler_that_blocks_the_loop_for_longer_than_its_lease_keeps_its_message(
    sqs_server: SqsServer,
) -> None:
    sqs_server.flush()
    stage, seen = Stage(sqs_server.url), list[int]()

    def block(payload: dict[str, int]) -> None:
        seen.append(payload["n"])
        time.sleep(5.0)  # in the loop's own thread

    async def handler(payload: dict[str, int]) -> None:
        block(payload)

    try:
        await stage.producer(dict[str, int]).send({"n": 1})
        await stage.work(stage.consumer(dict[str, int], handler, claim=Claim(min_idle=2.0)))
        await stage.until(lambda: seen == [1])
        await stage.until_empty()
        await asyncio.sleep(2.5)  # a lease later it would have come again
        assert [1] == seen
    finally:
        await stage.close()
