"""PostgreSQL and MariaDB under fire: killed workers, a killed server, a network that is cut or swallows everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from penstock import ConnectionFailed
from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sql import SqlBroker
from penstock.brokers.sql.arrivals import Patience
from penstock.clients.sql_migrating import migrate
from penstock.message import Message
from penstock.outcome import Ack
from penstock.testing import FaultProxy
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.end_to_end.test_outages import Load
from tests.servers.sql_server import OwnMariaDB, OwnPostgres, SqlServer

MakeFleet = Callable[..., Fleet]

JOBS = 1000
SUBSCRIPTION = Subscription(source="q", group="g", lease=30.0)


@pytest.fixture
async def server(sql_server: SqlServer) -> SqlServer:
    await migrate(sql_server.url)
    return sql_server


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_of_workers_that_are_killed_every_job_runs_and_only_theirs_twice(
    server: SqlServer, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(server.url, lease=1.5, concurrency=10)
    await fleet.start_ready(3)
    await fleet.send(*(Job(n, seconds=0.05) for n in range(1, JOBS + 1)))
    for done in (100, 400):
        await fleet.until(lambda done=done: len(fleet.seen("end")) > done)
        fleet.kill(fleet.ready[0])
    await fleet.until(lambda: len(fleet.executions()) == JOBS)
    stats = await fleet.until_empty()
    assert set(fleet.executions()) == set(range(1, JOBS + 1))
    assert ({}, 0) == (fleet.unexplained(), stats.dead)
    assert max(map(len, fleet.executions().values())) > 1, fleet.tail()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:.*ledger")  # MySQL tells that it was there already
async def test_what_is_written_and_sent_with_the_acknowledgement_is_there_once_whatever_is_killed(
    server: SqlServer, make_fleet: MakeFleet
) -> None:
    await server.query("CREATE TABLE IF NOT EXISTS ledger (entry INT)", "DELETE FROM ledger")
    numbers = range(1, 301)
    fleet = make_fleet(server.url, lease=1.5, concurrency=10)
    await fleet.start_ready(3)
    await fleet.send(*(Job(n, action="pay", seconds=0.03) for n in numbers))
    for done in (30, 150):
        await fleet.until(lambda done=done: len(fleet.seen("end")) > done)
        fleet.kill(fleet.ready[0])
    await fleet.until_empty()
    assert [(n,) for n in numbers] == await server.query("SELECT entry FROM ledger ORDER BY entry")
    followers = {(line.number, line.ident) for line in fleet.seen("start") if line.number < 0}
    assert sorted(-n for n in numbers) == sorted(number for number, _ in followers)
    assert max(len(lines) for number, lines in fleet.executions().items() if number % 10) > 1, fleet.tail()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_server_killed_under_load_loses_nothing_it_had_acknowledged_and_workers_come_back(
    durable_sql_server: OwnPostgres | OwnMariaDB, make_fleet: MakeFleet
) -> None:
    server = durable_sql_server
    await migrate(server.url)
    fleet = make_fleet(server.url, lease=3.0)
    members = await fleet.start_ready(2)
    load = Load(server.url, fleet.settings.stream)
    try:
        await fleet.until(lambda: len(load.acknowledged) > 300)
        await asyncio.to_thread(server.kill)
        await fleet.until(lambda: all(fleet.seen("unready", pid=m.pid) for m in members))
        await asyncio.to_thread(server.start)
        await fleet.until(lambda: all(len(fleet.seen("ready", pid=m.pid)) > 1 for m in members))
    finally:
        await load.stop()
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert load.acknowledged - set(fleet.executions()) == set()
    assert {type(error) for error in load.failures} == {ConnectionFailed}
    for member in members:
        assert member.alive
        told = len([line for line in member.log if "broker unavailable" in line])
        assert 1 <= told < 6, member.log  # once for each outage, not for each try


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_network_that_is_cut_or_swallows_everything_is_an_outage_and_no_more(
    server: SqlServer, make_fleet: MakeFleet
) -> None:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    async with FaultProxy("127.0.0.1", port) as proxy:
        fleet = make_fleet(server.url.replace(str(port), str(proxy.port)) + "?timeout=3", lease=4.0)
        (member,) = await fleet.start_ready()
        await fleet.send(*(Job(n, seconds=0.02) for n in range(1, 301)))
        await fleet.until(lambda: len(fleet.seen("end")) > 30)
        proxy.reset()
        await fleet.until(lambda: len(fleet.seen("end")) > 90)
        proxy.blackhole()
        await fleet.until(lambda: bool(fleet.seen("unready", pid=member.pid)))
        proxy.cut()
        proxy.heal()
        await fleet.until(lambda: len(fleet.seen("ready", pid=member.pid)) > len(fleet.seen("unready", pid=member.pid)))
        stats = await fleet.until_empty()
        assert stats.dead == 0
        assert set(fleet.executions()) == set(range(1, 301))
        assert member.alive


async def test_a_worker_is_told_of_messages_and_polls_when_it_hears_nothing_any_more(
    postgres_server: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "penstock.brokers.sql.broker.LISTENING", Patience(600.0, 600.0)
    )  # so that looking finds nothing
    await migrate(postgres_server.url)
    await postgres_server.clear()  # of what other tests have left
    reader, writer = SqlBroker.from_url(postgres_server.url), SqlBroker.from_url(f"{postgres_server.url}?listen=false")
    try:
        assert [] == list(await reader.fetch(SUBSCRIPTION, 10, 0.2))
        await _listens(reader)
        waiting = asyncio.ensure_future(reader.fetch(SUBSCRIPTION, 10, 20.0))
        await asyncio.sleep(0.5)  # until it has looked for itself
        await _published(writer)
        found = await waiting
        assert 1 == len(found), "nobody told it"
        await reader.settle([Settlement(delivery=d, outcome=Ack()) for d in found])
        await postgres_server.cut()
        while reader._listener.up:
            await asyncio.sleep(0.01)
        await _published(writer)
        found = []
        while not found:
            with suppress(ConnectionFailed):  # its other connections are gone as well
                found = await reader.fetch(SUBSCRIPTION, 10, 20.0)
        assert found  # perhaps twice: what became of a message whose connection broke nobody can say
        await reader.settle([Settlement(delivery=d, outcome=Ack()) for d in found])
        await _listens(reader)
    finally:
        await reader.close()
        await writer.close()


async def _listens(reader: SqlBroker) -> None:
    while not reader._listener.up:
        await asyncio.sleep(0.01)


async def _published(writer: SqlBroker) -> None:
    """A message, on whichever connection still carries one."""
    while True:
        with suppress(ConnectionFailed):
            await writer.publish([Outgoing(destination="q", message=Message(type="t", body=b"1"))])
            return


async def test_an_idle_worker_hardly_asks(postgres_server: SqlServer, make_fleet: MakeFleet) -> None:
    await migrate(postgres_server.url)
    fleet = make_fleet(postgres_server.url, interval=1.0)
    await fleet.start_ready()
    await asyncio.sleep(3.0)  # until the start is over
    count = "SELECT sum(calls) FROM (SELECT xact_commit + xact_rollback AS calls FROM pg_stat_database) AS s"
    ((before,),) = await postgres_server.query("SELECT pg_stat_force_next_flush()", count)
    await asyncio.sleep(6.0)
    ((after,),) = await postgres_server.query("SELECT pg_stat_force_next_flush()", count)
    print(f"{(after - before) / 6:.1f} transactions a second")
    assert (after - before) / 6 < 5


async def test_a_plain_client_sends_and_reads(server: SqlServer) -> None:
    broker = SqlBroker.from_url(server.url)
    try:
        await broker.fetch(SUBSCRIPTION, 0, 0.0)
        now = "extract(epoch FROM now())" if server.scheme == "postgresql" else "unix_timestamp(now(6))"
        await server.query(
            "INSERT INTO penstock_messages (queue, grp, type, headers, payload, available_at, created_at)"
            f" SELECT queue, grp, 'email.send', '{{\"tenant\": \"a\"}}', '{{\"to\": 1}}', {now}, {now}"
            " FROM penstock_streams WHERE queue = 'q'"
        )
        (delivery,) = await broker.fetch(SUBSCRIPTION, 10, 5.0)
        message = delivery.message
        assert ("email.send", b'{"to": 1}', {"tenant": "a"}) == (message.type, message.body, message.headers)
        await broker.settle([Settlement(delivery=delivery, outcome=Ack())])
        sent = Message(type="t", body=b'{"n":1}', key="k", headers={"traceparent": "00-x"})
        (ident,) = await broker.publish([Outgoing(destination="q", message=sent)])
        ((number, kind, headers, payload),) = await server.query(
            "SELECT id, type, headers, payload FROM penstock_messages"
        )
        assert (ident, "t", '{"traceparent":"00-x"}', b'{"n":1}') == (str(number), kind, headers, bytes(payload))
    finally:
        await broker.close()
