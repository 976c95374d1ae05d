"""What one consumer holds: everything fetched and not settled yet, in which state, and who waits for a change.

``waiting`` → a slot runs it → ``finished`` → settled. ``held`` spans all of that, by message id; the lease keeper
renews what is in it, back-pressure counts it. An id is unique in its queue only, on some brokers: a message of another
queue with the id of one that is held is among ``twins``, for whoever added it to give back for a moment. Plain state: no I/O. It belongs to the event loop; only ``held`` is also
read by the lease keeper's thread.
"""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from msgspec.structs import replace

from .broker import Settlement
from .context import Context
from .message import Delivery
from .outcome import Outcome, Release

SUSPECT_COUNT = 3  # handed over this often, i.e. two owners died with it: run it alone


def suspect_count(limit: int) -> int:
    """What counts as suspect where ``limit`` deliveries are allowed: the last one, but never the first."""
    return max(2, min(SUSPECT_COUNT, limit))


@dataclass(slots=True)
class Counters:
    """Totals since the start, for the numbers that must add up. ``discarded``: those of ``acked`` that did not run."""

    fetched: int = 0
    acked: int = 0
    retried: int = 0
    dead: int = 0
    released: int = 0
    lost: int = 0
    reclaimed: int = 0
    discarded: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*map(operator.add, astuple(self), astuple(other)))

    @property
    def processed(self) -> int:
        """Executions that came to an outcome."""
        return self.acked + self.retried + self.dead


class Ledger:
    """See the module."""

    def __init__(self, suspect_limit: int) -> None:
        self.waiting: deque[Delivery[Any]] = deque()
        self.suspects: deque[Delivery[Any]] = deque()
        self.held: dict[str, Delivery[Any]] = {}
        self.contexts: dict[str, Context] = {}
        self.finished: list[Settlement[Any]] = []
        self.settling: set[str] = set()
        self.parked: list[Delivery[Any]] = []
        self.twins: list[Delivery[Any]] = []
        self.unpark: Callable[[Sequence[Delivery[Any]]], object] = self.add
        self.wake: Callable[[], object] = _nobody
        self.closed = False  # nothing new begins here
        self.aside = 0  # of what is held, how much waits for something else than a slot
        self.on_lost: Callable[[Delivery[Any]], object] = lambda _: None
        self.counters = Counters()
        self.done = asyncio.Event()
        self.room = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._suspect_count = suspect_count(suspect_limit)

    def add(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Take fresh deliveries in."""
        for delivery in deliveries:
            old = self.held.get(delivery.message.id)
            if old is not None and old.source != delivery.source:
                self.twins.append(delivery)
                continue
            if old is not None and not self._replaces(old, delivery):
                continue
            self.held[delivery.message.id] = delivery
            self.counters.fetched += 1
            if delivery.count >= self._suspect_count:
                self.suspects.append(delivery)
            else:
                self.waiting.append(delivery)
        if self.held:
            self.idle.clear()

    def _replaces(self, old: Delivery[Any], new: Delivery[Any]) -> bool:
        """Whether a message that is held here and comes again is to be run again.

        Same attempt, higher count: its lease lapsed while nobody else took it. It is the same execution under a new
        lease: not run again, not counted, and its outcome is written under the new lease. A lower count is an answer
        that was overtaken. Anything else is what became of an outcome, so it is another execution. If the outcome is
        our own and its answer still on the way, the message waits for that; if it is another's, we had lost the lease.
        """
        ident = new.message.id
        if new.message.attempt == old.message.attempt and new.count != old.count:
            if new.count > old.count:
                self.held[ident] = replace(new, count=old.count)
            return False
        if ident in self.settling:
            self.parked.append(new)
            return False
        if self.lose(old):
            self.on_lost(old)
        return True

    def finish(self, delivery: Delivery[Any], outcome: Outcome) -> None:
        """Hand an outcome to the settler, under the newest lease; drop it if the lease is lost."""
        current = self.held.get(delivery.message.id)
        if current is None:
            return
        if not self.finished:
            self.done.set()
        self.finished.append(Settlement(delivery=current, outcome=outcome))

    def forget(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Settled, or lost: no longer ours."""
        held = self.held
        for delivery in deliveries:
            held.pop(delivery.message.id, None)
        self.room.set()
        if not held and not self.parked:
            self.idle.set()

    def settled(self, idents: Iterable[str], deliveries: Iterable[Delivery[Any]]) -> None:
        """The settling of ``idents`` is over, and ``deliveries`` are gone; what came again meanwhile may run now."""
        self.settling.difference_update(idents)
        self.forget(deliveries)
        if self.parked:
            ready = [delivery for delivery in self.parked if delivery.message.id not in self.settling]
            self.parked = [delivery for delivery in self.parked if delivery.message.id in self.settling]
            self.unpark(ready)
            self.forget(())

    def lose(self, delivery: Delivery[Any]) -> bool:
        """Another worker has it now. True if that is news: not while its own settlement is on the way."""
        ident = delivery.message.id
        if self.held.get(ident) is not delivery or ident in self.settling:
            return False
        # Should the message come back, it is another execution: the outcome of this one is not for it.
        context = self.contexts.pop(ident, None)
        if context is not None:
            context.lease_lost = True
        for queue in (self.waiting, self.suspects):
            for waiting in [each for each in queue if each.message.id == ident]:
                queue.remove(waiting)
        self.finished = [item for item in self.finished if item.delivery.message.id != ident]
        self.forget((delivery,))
        return True

    def stale(self, delivery: Delivery[Any]) -> None:
        """An execution that lost its lease has ended."""

    def give_back(self) -> None:
        """Give back everything that no slot has taken yet."""
        self.closed = True
        while self.waiting or self.suspects:  # giving one back may have made it another's turn
            self.release_unstarted([*self.waiting, *self.suspects])

    def release_unstarted(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Give back those of ``deliveries`` that no slot has taken yet."""
        unstarted = {id(delivery): delivery for queue in (self.waiting, self.suspects) for delivery in queue}
        chosen = {id(delivery) for delivery in deliveries} & unstarted.keys()
        for queue in (self.waiting, self.suspects):
            kept = [delivery for delivery in queue if id(delivery) not in chosen]
            queue.clear()
            queue.extend(kept)
        for delivery in unstarted.values():
            if id(delivery) in chosen:
                self.finish(delivery, Release())


def _nobody() -> None:
    """Nobody is to be woken."""
