"""Order across processes: messages of one key run one at a time and in order, whoever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock import open_broker
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job

KEYS, JOBS = 8, 400

MakeFleet = Callable[..., Fleet]


@pytest.mark.slow
async def test_two_processes_keep_the_order_of_each_key_though_one_is_killed(
    any_url: str, make_fleet: MakeFleet
) -> None:
    if not open_broker(any_url).capabilities.keyed:
        pytest.skip("the broker declares no keyed")
    fleet = make_fleet(any_url, everywhere=True, concurrency=5, lease=1.0)
    first, second = await fleet.start_ready(2)
    flaky = {n: "flaky" if n % 7 == 0 else "sleep" for n in range(1, JOBS + 1)}
    await fleet.send(*(Job(n, flaky[n], seconds=0.01) for n in flaky), keys=KEYS)
    await fleet.until(lambda: all(len(fleet.seen("end", pid=each.pid)) >= 20 for each in (first, second)))
    fleet.kill(first)
    assert 0 == (await fleet.until_empty()).dead
    assert set(range(1, JOBS + 1)) == set(fleet.executions())
    assert {} == {n: starts for n, starts in fleet.unexplained().items() if flaky[n] != "flaky"}
    assert [] == overtakings(fleet)


def overtakings(fleet: Fleet) -> list[str]:
    """Where a job began before an earlier one of its key had ended, or after a later one had begun."""
    found: list[str] = []
    ended: set[int] = set()
    newest: dict[int, int] = {}
    for line in fleet.lines:
        key, number = line.number % KEYS, line.number
        if line.event == "end":
            ended.add(number)
        elif line.event == "start":
            earlier = [n for n in range(key or KEYS, number, KEYS) if n not in ended]
            if earlier or newest.get(key, 0) > number:
                found.append(f"{number} began while {earlier} had not ended and {newest.get(key)} had begun")
            newest[key] = max(newest.get(key, 0), number)
    return found
