"""What a simulated world will go through, drawn from its seed: the jobs, the machines, and the trouble they get."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Action: TypeAlias = Literal["ack", "fail", "panic", "retry", "dead", "release", "kill"]
Mishap: TypeAlias = Literal["crash", "stop", "hurry", "freeze", "partition", "cut off client", "pause"]

MISHAPS: tuple[Mishap, ...] = ("crash", "stop", "hurry", "freeze", "partition", "cut off client", "pause")
LEASE = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Step:
    """What one execution does: work for ``seconds``, then ``action``."""

    seconds: float
    action: Action


@dataclass(frozen=True, slots=True)
class Job:
    """``steps``: one for each execution in a group, the last again and again. Sent at ``at``, with
    ``delay``. ``key``: its ordering key, if not one of its own.
    """

    number: int
    at: float
    delay: float
    steps: tuple[Step, ...]
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """``chaos``: seconds after which all trouble is over. ``pace``: mean seconds between two mishaps."""

    jobs: tuple[Job, ...]
    groups: tuple[str, ...] = ("a",)
    machines: int = 2
    concurrency: int = 2
    max_attempts: int = 3
    drain: float = 2.0
    faults: float = 0.0
    latency: float = 0.005
    chaos: float = 12.0
    pace: float = 1.5
    mishaps: tuple[Mishap, ...] = field(default=MISHAPS)
    ordered: bool = False


def drawn(dice: random.Random) -> Script:
    """A script at random. Not every world has every kind of trouble: some faults only show where others are absent."""
    chaos = dice.uniform(6.0, 14.0)
    ordered = dice.random() < 0.25
    jobs = tuple(_job(dice, number, chaos, ordered=ordered) for number in range(1, dice.randint(4, 22)))
    return Script(
        jobs=jobs,
        groups=("a", "b")[: dice.choice((1, 1, 2))],
        machines=dice.randint(1, 3),
        concurrency=dice.choice((1, 2, 2, 5)),
        max_attempts=dice.choice((1, 2, 3, 4)),
        drain=dice.choice((0.0, 0.5, 2.0, 6.0)),
        faults=dice.choice((0.0, 0.0, 0.01, 0.05)),
        latency=dice.choice((0.001, 0.005, 0.02, 0.08)),
        chaos=chaos,
        pace=dice.choice((0.7, 1.5, 4.0)),
        mishaps=tuple(mishap for mishap in MISHAPS if dice.random() < 0.5),
        ordered=ordered,
    )


def _job(dice: random.Random, number: int, chaos: float, *, ordered: bool) -> Job:
    kind = dice.random()
    steps: tuple[Step, ...] = (_step(dice, "ack"),)
    if kind < 0.25:
        steps = (*(_step(dice, dice.choice(("fail", "panic", "retry"))) for _ in range(dice.randint(1, 3))), *steps)
    elif kind < 0.35:
        steps = (Step(LEASE * dice.uniform(1.1, 3.0), "ack"),)
    elif kind < 0.45:
        steps = (_step(dice, "release"), *steps)
    elif kind < 0.5:
        steps = (_step(dice, "kill"), *steps)
    elif kind < 0.53:
        steps = (_step(dice, "kill"),)
    elif kind < 0.57:
        steps = (_step(dice, "fail"),)
    elif kind < 0.6:
        steps = (_step(dice, "dead"),)
    delay = dice.uniform(0.1, 5.0) if dice.random() < 0.15 else 0.0
    key = dice.choice(("x", "y", "")) if ordered else ""
    return Job(number, at=dice.uniform(0.0, chaos * 0.8), delay=delay, steps=steps, key=key)


def _step(dice: random.Random, action: Action) -> Step:
    return Step(0.0 if dice.random() < 0.4 else dice.expovariate(3.0), action)
