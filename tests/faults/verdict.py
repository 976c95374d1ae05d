"""What a run showed: what was lost and by whom, what ran twice and why, when work went on, what the workers said."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tests.end_to_end.fleet import Line, Member
from tests.faults.stage import Stage

TOLD = re.compile(r"(lease lost|lease was lost|settled by a try that failed).*\[id=(.+)\]$")
RETRIED = re.compile(r"retry in .*: ConnectionFailed.*\[id=(.+)\]$")
OUTAGE = re.compile(r"^ERROR (.+) of .+: broker unavailable")
OVER = re.compile(r"^WARNING (.+) of .+: broker back")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of the table. Seconds count from the end of the fault, ``red`` from its beginning.

    ``twice``: executions that were not the first of their job, by what explains them; ``lines``: the most that one
    worker logged about the beginning of an outage.
    """

    fault: str
    server: str
    sent: int
    done: int
    lost: int
    lost_by_server: int
    twice: dict[str, int]
    resumed: float
    drained: float
    red: float | None
    green: float | None
    lines: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def judge(fault: str, stage: Stage) -> Verdict:
    times, load = stage.times, stage.load
    assert load is not None
    starts = [line.at for line in stage.fleet.lines if line.event == "start" and line.at >= times.healed]
    red, green = readiness(stage)
    return Verdict(
        fault=fault,
        server=stage.topology.name,
        sent=len(load.acknowledged),
        done=len(load.acknowledged & stage.executed()),
        lost=len(load.acknowledged - stage.done),
        lost_by_server=len(stage.lost_by_the_server() & load.acknowledged),
        twice=dict(Counter(explained(stage).values())),
        resumed=round(min(starts) - times.healed, 2),
        drained=round(times.drained - times.healed, 2),
        red=red,
        green=green,
        lines=log_lines(stage),
        seconds=round(times.drained - times.began, 1),
    )


def explained(stage: Stage) -> dict[tuple[int, int], str]:
    """Each execution but the first of its job, by number and place, and why it took place."""
    lines = [line for member in stage.fleet.members for line in member.log]
    told = {found[2] for line in lines if (found := TOLD.search(line))}
    failed = {found[1] for line in lines if (found := RETRIED.search(line))}
    ended: defaultdict[int, list[Line]] = defaultdict(list)
    for line in stage.fleet.seen("end"):
        ended[line.number].append(line)
    runs, found = stage.fleet.executions(), dict[tuple[int, int], str]()
    for number, starts in runs.items():
        for place, (before, again) in enumerate(pairwise(starts), 1):
            if before.pid in stage.fleet.killed:
                why = "its worker was killed"
            elif before.ident in told or again.ident in told:
                why = "its lease or its ack was lost, as logged"
            elif before.ident in failed:
                why = "its handler could not reach the server, and it was retried"
            elif number < 0 and len(runs.get(-number, ())) > 1:
                why = "its sender ran twice"
            elif (
                stage.kept is not None
                and number in stage.kept
                and before.at < stage.times.healed
                and again.at > stage.times.struck
            ):
                why = "the server lost its ack"
            else:
                why = "unexplained"
            found[number, place] = why
    return found


def readiness(stage: Stage) -> tuple[float | None, float | None]:
    """When the last of those who could see the fault turned red, and when the last was green again; ``None``: never."""
    struck, healed = stage.times.struck, stage.times.healed
    red, green = list[float](), list[float]()
    for member in witnesses(stage):
        turned = [line.at for line in stage.fleet.seen("unready", pid=member.pid) if line.at >= struck]
        back = [line.at for line in stage.fleet.seen("ready", pid=member.pid) if line.at >= struck]
        if turned:
            red.append(turned[0] - struck)
            if back and back[-1] > turned[-1]:
                green.append(back[-1] - healed)
    return (round(max(red), 2) if red else None), (round(max(green), 2) if green else None)


def turned_red(stage: Stage) -> int:
    """How many workers did."""
    struck = stage.times.struck
    return len({line.pid for line in stage.fleet.seen("unready") if line.at >= struck})


def witnesses(stage: Stage) -> list[Member]:
    """The workers that lived through the fault and could have said so."""
    hidden = stage.frozen | stage.fleet.killed
    return [member for member in stage.fleet.members if member.alive and member.pid not in hidden]


def log_lines(stage: Stage) -> int:
    """The most lines about the beginning of an outage of one worker."""
    return max(sum(OUTAGE.search(line) is not None for line in member.log) for member in stage.fleet.members)


def repeated_lines(stage: Stage) -> list[str]:
    """Lines about the beginning of an outage that had begun already."""
    found: list[str] = []
    for member in stage.fleet.members:
        down = False
        for line in member.log:
            if OUTAGE.search(line):
                if down:
                    found.append(f"{member.pid}: {line}")
                down = True
            elif OVER.search(line):
                down = False
    return found


def all_ready(stage: Stage) -> bool:
    """Whether every worker that lived through it says so."""
    last = {line.pid: line.event for line in stage.fleet.lines if line.event in {"ready", "unready"}}
    return all(last.get(member.pid) == "ready" for member in witnesses(stage))


def unfinished_outages(stage: Stage) -> list[str]:
    """Outages that a worker reported, and never their end."""
    left: list[str] = []
    for member in witnesses(stage):
        told = [line for line in member.log if OUTAGE.search(line) or OVER.search(line)]
        if told and OUTAGE.search(told[-1]):
            left.append(f"{member.pid} {told[-1]}")
    return left
