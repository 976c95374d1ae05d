"""The referee: knows of every message whose it is and what was done with it, and calls what must not happen.

It watches the line between brokers and system and the handlers, keeps its own account of leases and attempts, and
believes nobody. A machine that is well and does its work has no excuse: it may lose no lease, run nothing twice,
give back nothing that it has finished. A machine that was dead, frozen, cut off or answered with an error has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...broker import Settlement
from ...context import Context
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Retry
from .history import History
from .machine import Machine

SLACK = 1e-6  # seconds


@dataclass(slots=True, eq=False)
class Run:
    """One execution. ``ending``: how it ended: ``ack``, ``retry``, ``dead``, ``release``, ``fail``."""

    machine: Machine
    context: Context
    receipt: Any = None
    ending: str = ""
    ended_at: float = 0.0

    @property
    def owed(self) -> bool:
        """Whether its success should have been written: nothing has happened to the machine since."""
        succeeded = self.ending == "ack" and not self.context.lease_lost
        return succeeded and not self.machine.impaired and self.machine.trouble < self.ended_at - SLACK


@dataclass(slots=True)
class Copy:
    """One message as one group has it. ``spent``: executions and handings-over that count as attempts."""

    about: str
    state: Literal["ready", "leased", "done", "dead"] = "ready"
    spent: int = 0
    owner: Machine | None = None
    receipt: Any = None
    renewed: float = 0.0
    until: float = 0.0
    key: str | None = None
    adrift: bool = False  # taken by a fetch that was cancelled: nobody knows that he has it
    runs: list[Run] = field(default_factory=list[Run])

    def last_run(self, machine: Machine) -> Run | None:
        """The newest execution on a machine."""
        return next((run for run in reversed(self.runs) if run.machine is machine), None)

    def excused(self) -> bool:
        """Whether its owner has had a reason to lose it since he last renewed it."""
        owner = self.owner
        return owner is None or self.adrift or owner.impaired or owner.trouble >= self.renewed - SLACK


class Referee:
    """``max_attempts``: the policy's. ``lease``: seconds. ``ordered``: messages with the same key take turns."""

    def __init__(
        self, history: History, groups: Sequence[str], lease: float, max_attempts: int, *, ordered: bool = False
    ) -> None:
        self._history, self._groups, self._lease, self._max = history, groups, lease, max_attempts
        self.copies: dict[tuple[str, str], Copy] = {}
        self.jobs: dict[int, str] = {}
        self.stopped: set[str] = set()
        self.verdicts: list[str] = []
        self.accused = ""
        self._ordered = ordered

    # ---------------------------------------------------------------------------------------------- what brokers do

    def published(self, number: int, ident: str) -> None:
        """The system has a job's message."""
        known = self.jobs.setdefault(number, ident)
        self._demand(known == ident, f"{number}", "was published twice under one key")
        for group in self._groups:
            self.copies.setdefault((ident, group), Copy(f"{number}/{group}"))

    def handed(self, machine: Machine, deliveries: Sequence[Delivery[Any]]) -> None:
        """The system has given deliveries to a machine."""
        for delivery in deliveries:
            copy = self._copy(delivery)
            if copy.state == "leased":
                self._passed_on(copy)
            self._demand(copy.state == "ready", copy.about, f"was handed out although it is {copy.state}")
            self._demand(
                delivery.attempt == copy.spent,
                copy.about,
                f"has attempt {delivery.attempt}, but {copy.spent} are spent",
            )
            self._demand(
                machine.name not in self.stopped, copy.about, f"was given to {machine.name}, which had stopped"
            )
            copy.state, copy.owner, copy.receipt, copy.adrift = "leased", machine, delivery.receipt, False
            self._renew(copy)
            self._history.note(machine.name, "has", copy.about, f"attempt {delivery.attempt}")

    def set_adrift(self, deliveries: Sequence[Delivery[Any]]) -> None:
        """The answer with these deliveries reached nobody any more."""
        for delivery in deliveries:
            copy = self._copy(delivery)
            copy.adrift = copy.adrift or copy.receipt == delivery.receipt

    def renewed(self, deliveries: Sequence[Delivery[Any]], lost: Sequence[Delivery[Any]]) -> None:
        """Leases were extended."""
        refused = {id(delivery) for delivery in lost}
        for delivery in deliveries:
            copy = self._copy(delivery)
            if id(delivery) not in refused and copy.receipt == delivery.receipt:
                self._renew(copy)

    def settled(self, machine: Machine, item: Settlement[Any]) -> None:
        """The system has taken an outcome from a machine."""
        copy, outcome = self._copy(item.delivery), item.outcome
        self._history.note(machine.name, "settled", copy.about, type(outcome).__name__)
        mine = copy.state == "leased" and copy.receipt == item.delivery.receipt
        self._demand(mine, copy.about, f"was settled by {machine.name}, who had no lease of it")
        run = copy.last_run(machine)
        ending = run.ending if run is not None else ""
        if isinstance(outcome, Ack):
            self._demand(ending == "ack", copy.about, "was acked, but no handler had succeeded")
            copy.state = "done"
        elif isinstance(outcome, Retry):
            first = run.context.attempt if run is not None else 0
            # What is given back after attempts that were counted in place is written as a retry
            back = self._ordered and ending in {"interrupted", "release"} and first == item.delivery.attempt + 1
            fair = ending in {"fail", "retry"} or back
            self._demand(fair, copy.about, f"was retried after {ending or 'nothing'}")
            # An execution that lost its lease and got it back on the same machine is one execution
            counted = back or first <= item.delivery.attempt <= max(copy.spent, first if self._ordered else 0)
            self._demand(counted, copy.about, f"was retried as attempt {item.delivery.attempt}, {copy.spent} spent")
            copy.spent, copy.state = item.delivery.attempt + 1, "ready"
        elif isinstance(outcome, DeadLetter):
            self._died(copy, outcome, run)
        else:
            self._demand(run is None or not run.owed, copy.about, "was released, but its handler had succeeded")
            copy.state = "ready"

    def given_back(self, machine: Machine) -> None:
        """A broker was closed: what its owner still had is ready again."""
        for copy in self.copies.values():
            if copy.state == "leased" and copy.owner is machine:
                run = copy.last_run(machine)
                owed = run is not None and run.owed
                self._demand(not owed, copy.about, "was given back, but its handler had succeeded")
                copy.state = "ready"
                self._history.note(machine.name, "gave back", copy.about)

    # --------------------------------------------------------------------------------------------- what handlers do

    def started(self, machine: Machine, context: Context) -> Run:
        """A handler begins."""
        copy = self.copies[context.id, context.group]
        self._history.note(machine.name, "runs", copy.about, f"attempt {context.attempt}")
        self._demand(machine.name not in self.stopped, copy.about, f"was run by {machine.name}, which had stopped")
        self._demand(context.attempt < self._max, copy.about, f"was run as attempt {context.attempt} of {self._max}")
        for run in copy.runs:
            twice = run.machine is machine and not run.ending and not run.context.lease_lost
            self._demand(not twice, copy.about, f"runs twice at once on {machine.name}")
        if self._ordered:
            self._in_turn(machine, copy, context)
        copy.runs.append(Run(machine, context, copy.receipt))
        return copy.runs[-1]

    def _in_turn(self, machine: Machine, copy: Copy, context: Context) -> None:
        """Nobody of the same key runs on this machine, nor waits there for a retry."""
        copy.key = context.key
        for (_, group), other in self.copies.items():
            run = other.last_run(machine)
            if other is copy or run is None or (group, other.key) != (context.group, context.key):
                continue
            self._demand(bool(run.ending), copy.about, f"began beside {other.about}, which has the same key")
            again = run.ending in {"fail", "retry"} and run.context.attempt + 1 < self._max
            waits = again and other.state == "leased" and other.receipt == run.receipt
            self._demand(not waits, copy.about, f"overtook {other.about}, which waits for its retry")

    def ended(self, run: Run, ending: str) -> None:
        """A handler came to its end."""
        copy = self.copies[run.context.id, run.context.group]
        run.ending, run.ended_at = ending, asyncio.get_running_loop().time()
        self._history.note(run.machine.name, "ended", copy.about, ending)
        stopped = run.machine.name in self.stopped and not run.machine.dead
        self._demand(not stopped, copy.about, f"was still running on {run.machine.name}, which had stopped")

    # ------------------------------------------------------------------------------------------------ what must hold

    def left(self, machine: Machine) -> None:
        """A worker has stopped: it holds nothing and does nothing any more."""
        self.stopped.add(machine.name)
        for copy in self.copies.values():
            held = copy.state == "leased" and copy.owner is machine
            self._demand(not held or copy.excused(), copy.about, f"is still held by {machine.name}, which has stopped")

    @property
    def unfinished(self) -> list[Copy]:
        """Messages that have not come to an end."""
        return [copy for copy in self.copies.values() if copy.state not in {"done", "dead"}]

    def lost(self, copies: Sequence[Copy]) -> None:
        """Call messages lost."""
        for copy in copies:
            self._demand(holds=False, about=copy.about, fault=f"is lost: {copy.state}, last with {_name(copy.owner)}")

    def call(self, about: str, fault: str) -> None:
        """Call anything else."""
        self._demand(holds=False, about=about, fault=fault)

    def _demand(self, holds: bool, about: str, fault: str) -> None:
        if holds:
            return
        self.accused = self.accused or about
        self.verdicts.append(f"{about} {fault}")
        self._history.note("referee", "FOUL", about, fault)

    def _passed_on(self, copy: Copy) -> None:
        """A leased message is about to change hands: only if its lease is over, and for a reason."""
        now = asyncio.get_running_loop().time()
        owner = _name(copy.owner)
        self._demand(copy.until <= now + SLACK, copy.about, f"was taken from {owner}, whose lease was alive")
        self._demand(copy.excused(), copy.about, f"was taken from {owner}, who was well and did not renew its lease")
        copy.spent, copy.state = copy.spent + 1, "ready"

    def _died(self, copy: Copy, letter: DeadLetter, run: Run | None) -> None:
        ending, spent = (run.ending, run.context.attempt) if run is not None else ("", 0)
        if letter.reason == "poison":
            fair = copy.spent >= self._max
        elif letter.reason.startswith("maxAttempts"):
            fair = ending in {"fail", "retry"} and max(copy.spent, spent if self._ordered else 0) + 1 >= self._max
        else:
            fair = ending == "dead"
        self._demand(fair, copy.about, f"is dead of {letter.reason!r} with {copy.spent} attempts spent, after {ending}")
        copy.state = "dead"

    def _renew(self, copy: Copy) -> None:
        copy.renewed = asyncio.get_running_loop().time()
        copy.until = copy.renewed + self._lease

    def _copy(self, delivery: Delivery[Any]) -> Copy:
        return self.copies[delivery.message.id, delivery.group]


def _name(machine: Machine | None) -> str:
    return machine.name if machine is not None else "nobody"
