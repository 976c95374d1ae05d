"""One outage is one line, whatever happens in between."""

from __future__ import annotations

import random

import pytest

from penstock.errors import ConnectionFailed
from penstock.outage import FIRST_PAUSE, LONGEST_PAUSE, OutageLog, Outages
from penstock.telemetry import Outage, Telemetry
from penstock.testing.clock import ManualClock


async def test_an_outage_is_logged_once_at_its_start_and_once_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock, events = ManualClock(), list[object]()
    outage = OutageLog("intake", "s", clock, random.Random(1), Telemetry(events.append))
    outage.recovered()
    for _ in range(20):
        assert outage.failed(ConnectionFailed("gone")) > 0
        await clock.advance(1.0)
    assert outage.down
    outage.recovered()
    outage.recovered()
    assert not outage.down
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert events == [
        Outage("intake", "s", ended=False, seconds=0.0, error="gone"),
        Outage("intake", "s", ended=True, seconds=20.0),
    ]


def test_a_failure_that_nobody_expects_is_one_line_too_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    outage, wrong = OutageLog("intake", "s", ManualClock(), random.Random(1), Telemetry()), KeyError("oops")
    for _ in range(3):
        outage.failed(wrong)
    (record,) = caplog.records
    assert record.getMessage() == "intake of s: failed unexpectedly, trying again: 'oops'"
    assert record.exc_info is not None
    assert record.exc_info[1] is wrong


def test_the_next_outage_is_another_line_and_begins_with_the_shortest_pause(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageLog("intake", "s", ManualClock(), random.Random(1), Telemetry())
    pauses = [outage.failed(ConnectionFailed("gone")) for _ in range(12)]
    outage.recovered()
    again = outage.failed(ConnectionFailed("gone again"))
    assert pauses[0] <= FIRST_PAUSE
    assert again <= FIRST_PAUSE
    assert max(pauses) <= LONGEST_PAUSE
    assert pauses[-1] >= LONGEST_PAUSE / 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]


async def test_roles_that_share_a_broker_tell_of_its_outage_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, shared, events = ManualClock(), Outages(), list[object]()
    intake, settler, other = (
        OutageLog(role, "s", clock, random.Random(1), Telemetry(events.append), outages=outages)
        for role, outages in (("intake", shared), ("settler", shared), ("intake", Outages()))
    )
    intake.failed(ConnectionFailed("gone"))
    await clock.advance(1.0)
    settler.failed(ConnectionFailed("gone"))
    other.failed(ConnectionFailed("another one"))
    await clock.advance(2.0)
    intake.recovered()
    settler.recovered()
    told = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert told == [
        "intake of s: broker unavailable, trying again: gone",
        "intake of s: broker unavailable, trying again: another one",
        "settler of s: broker back after 3.0 s",
    ]
    assert len(events) == 5  # each role tells its own to who counts them
