"""Handlers that run for many leases: while their process lives, nobody else gets their job."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job

SECONDS = float(os.environ.get("PENSTOCK_E2E_LONG", "12"))
LEASE = SECONDS / 12

MakeFleet = Callable[..., Fleet]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 60)
async def test_a_handler_of_twelve_leases_runs_once_however_it_spends_them(
    main_url: str, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(main_url, lease=LEASE, interval=LEASE / 5, concurrency=1)
    await fleet.start_ready(3)  # each takes one of the jobs …
    await fleet.send(Job(1, "sleep", SECONDS), Job(2, "block", SECONDS))
    await fleet.send(Job(3, seconds=SECONDS), type="thread")
    await fleet.until(lambda: len(fleet.seen("start")) >= 3)
    (watcher,) = await fleet.start_ready()  # … and one is idle and watches
    await fleet.until(lambda: len(fleet.seen("end")) + len(fleet.seen("lost")) >= 3, SECONDS * 2 + 30)
    stats = await fleet.until_empty()
    assert stats.dead == 0
    assert {number: len(starts) for number, starts in fleet.executions().items()} == {1: 1, 2: 1, 3: 1}
    assert fleet.seen("lost") == []
    assert fleet.seen("start", pid=watcher.pid) == []
