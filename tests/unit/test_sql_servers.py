"""What is peculiar to PostgreSQL and MySQL: whose clock counts, and what a session may have been told of time zones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sql import SqlBroker
from penstock.clock import SystemClock
from penstock.message import Message
from penstock.outcome import Retry
from tests.servers.sql_server import SqlServer

SUBSCRIPTION = Subscription(source="q", group="g", lease=30.0)
ZONES = {
    "postgresql": ("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kathmandu'", "ALTER ROLE CURRENT_USER RESET timezone"),
    "mysql": ("SET GLOBAL time_zone = '+05:45'", "SET GLOBAL time_zone = 'SYSTEM'"),
}


class Wrong(SystemClock):
    """The clock of a machine that is off by so many seconds."""

    def __init__(self, by: float) -> None:
        self._by = by

    def time(self) -> float:
        return super().time() + self._by


@pytest.fixture
def elsewhere(sql_server: SqlServer) -> Iterator[SqlServer]:
    """A server whose sessions are far from UTC."""
    there, back = ZONES[sql_server.scheme]
    sql_server.run(there)
    yield sql_server
    sql_server.run(back)


@pytest.mark.parametrize("by", [-7200.0, 7200.0])
async def test_g21_delays_and_leases_run_by_the_servers_clock_in_any_zone(elsewhere: SqlServer, by: float) -> None:
    wrong = SqlBroker.from_url(elsewhere.url, create=True, clock=Wrong(by))
    right = SqlBroker.from_url(elsewhere.url, create=True)
    await right.fetch(SUBSCRIPTION, 0, 0.0)
    begun = time.monotonic()
    await wrong.publish([Outgoing(destination="q", message=Message(type="t", body=b"1"), delay=0.5)])
    assert [] == list(await right.fetch(SUBSCRIPTION, 1, 0.0))
    (delivery,) = await right.fetch(SUBSCRIPTION, 1, 10.0)
    assert 0.5 <= time.monotonic() - begun
    assert [] == list(await wrong.reclaim(SUBSCRIPTION, 1))
    await right.settle([Settlement(delivery=delivery, outcome=Retry(0.5))])
    assert [] == list(await wrong.fetch(SUBSCRIPTION, 1, 0.0))
    assert 1 == len(await wrong.fetch(SUBSCRIPTION, 1, 10.0))
    ((created,),) = await elsewhere.query("SELECT created_at FROM penstock_messages")
    assert 10 > abs(created - time.time())
    await asyncio.gather(wrong.close(), right.close())
