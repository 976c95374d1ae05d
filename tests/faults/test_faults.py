"""Workers under fire: whatever happens to them, to the server or to the network, nothing is lost that need not be.

A short run strikes most faults once, on Redis and on Valkey in turn; ``make faults`` strikes all of them on both, with
50,000 jobs each, and keeps what it saw for the table in the documentation.

``PENSTOCK_FAULT_JOBS``: jobs of each run. ``PENSTOCK_FAULT_BLACKHOLE``: seconds without a network.
``PENSTOCK_FAULT_SERVERS``: ``all`` for both. ``PENSTOCK_FAULT_RESULTS``: where to write the results, as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.catalogue import FAULTS, Fault
from tests.faults.stage import Sizes, Stage
from tests.faults.verdict import (
    Verdict,
    all_ready,
    judge,
    repeated_lines,
    turned_red,
    unfinished_outages,
    witnesses,
)

JOBS = int(os.environ.get("PENSTOCK_FAULT_JOBS", "600"))
BLACKHOLE = float(os.environ.get("PENSTOCK_FAULT_BLACKHOLE", "2.5"))
RESULTS = os.environ.get("PENSTOCK_FAULT_RESULTS")
LEASE, DEADLINE = (1.0, 2.0) if JOBS < 10_000 else (3.0, 2.0)
SIZES = Sizes(
    jobs=JOBS,
    lease=LEASE,
    deadline=DEADLINE,
    outage=1.5 * LEASE,
    blackhole=BLACKHOLE,
    patience=60.0 + BLACKHOLE + JOBS / 200,
)
EVERY = os.environ.get("PENSTOCK_FAULT_SERVERS") == "all"
KINDS = ("redis", "valkey")
RUNS = [
    pytest.param(fault, kind, id=f"{fault.name.replace('`', '')} · {kind}")
    for n, fault in enumerate(FAULTS)
    if EVERY or fault.short
    for kind in (KINDS if EVERY else KINDS[n % 2 : n % 2 + 1])
]


@pytest.mark.slow
@pytest.mark.timeout(2 * SIZES.patience + 60)
@pytest.mark.parametrize(("fault", "kind"), RUNS)
async def test_nothing_is_lost_and_work_goes_on_by_itself(fault: Fault, kind: str, tmp_path: Path) -> None:
    topology = fault.on(kind, fault.options)
    await topology.start()
    stage = Stage.make(topology, SIZES, tmp_path)
    try:
        await stage.play(fault.strike)
        stats = await stage.fleet.until_empty()
        await stage.fleet.until(lambda: not unfinished_outages(stage) and all_ready(stage), 20.0)
        verdict = judge(fault.name, stage)
        print(json.dumps(verdict.plain()))
        assert stats.dead == 0
        examine(verdict, stage, fault)
        keep(verdict.plain())
    finally:
        stage.fleet.close()
        await topology.stop()


def examine(verdict: Verdict, stage: Stage, fault: Fault) -> None:
    """The promises, one by one."""
    assert verdict.sent >= JOBS
    assert verdict.lost == verdict.lost_by_server
    assert fault.loses or verdict.lost == 0
    assert "unexplained" not in verdict.twice
    assert repeated_lines(stage) == []
    spawned = {line.number for line in stage.fleet.seen("end") if line.number < 0}
    parents = {line.number for line in stage.fleet.seen("end") if line.number > 0 and line.number % 25 == 0}
    if not fault.loses:
        assert {-number for number in spawned} >= parents
    if fault.red:
        assert turned_red(stage) >= len(witnesses(stage))
        assert verdict.green is not None


def keep(row: dict[str, Any]) -> None:
    """Put a result where the documentation is made from, in place of an older one."""
    if RESULTS is None:
        return
    path, which = Path(RESULTS), ("fault", "server")
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    rows = [old for old in rows if [old[key] for key in which] != [row[key] for key in which]]
    order = [fault.name for fault in FAULTS]
    rows = sorted([*rows, row], key=lambda each: (order.index(each["fault"]), each["server"]))
    path.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
