"""Ordering keys: messages with the same key run one at a time, in the order in which they were fetched.

The message whose turn it is owns its key; those behind it wait in the key's lane, and messages without a key pass by.
A retry keeps its turn: the message stays leased, waits out its delay here, and is run again, so that none behind it
overtakes it. Its attempts are counted here meanwhile and written with its last outcome. It gives up its turn when it is
done, dead, handed back, or lost to another worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from .clock import Clock
from .executor import Executor
from .ledger import Ledger
from .message import Delivery
from .outcome import Ack, DeadLetter, Outcome, Release, Retry
from .slots import Slots
from .telemetry import Telemetry

logger = logging.getLogger("penstock")


@dataclass(slots=True)
class Rest:
    """The wait for a retry. ``due``: by the monotonic clock."""

    due: float
    retry: Retry
    timer: asyncio.Task[None]


class OrderedLedger(Ledger):
    """A ledger whose messages with a key take turns."""

    def __init__(self, suspect_limit: int, clock: Clock) -> None:
        super().__init__(suspect_limit)
        self._clock = clock
        self._owners: dict[str, str] = {}  # key: id of the message whose turn it is
        self._lanes: dict[str, deque[Delivery[Any]]] = {}  # key: who waits behind it
        self._rests: dict[str, Rest] = {}  # by id
        self._spent: dict[str, int] = {}  # executions in place that counted, by id
        self._stale: set[str] = set()  # lost, but still running
        self.ready: deque[Delivery[Any]] = deque()  # whose turn has come

    def take(self) -> Delivery[Any] | None:
        """The next message that may run now. What may not goes into its lane."""
        if self.ready:
            return self.ready.popleft()
        while self.waiting:
            delivery = self.waiting.popleft()
            if self.may_run(delivery):
                return delivery
        return None

    def may_run(self, delivery: Delivery[Any]) -> bool:
        """Whether it is its turn; otherwise it is in its lane now."""
        key, ident = delivery.message.key, delivery.message.id
        if key is None:
            return True
        owner = self._owners.setdefault(key, ident)
        if owner == ident and ident not in self._stale:
            return True
        lane = self._lanes.setdefault(key, deque())
        if owner == ident:
            lane.appendleft(delivery)  # it has come back while its lost execution still runs
        else:
            lane.append(delivery)
        self._set_aside(1)
        return False

    def finish(self, delivery: Delivery[Any], outcome: Outcome) -> None:
        """Hand an outcome to the settler and pass the turn on; but a retry waits here, and keeps it."""
        key, ident = delivery.message.key, delivery.message.id
        current = self.held.get(ident)
        if key is None or current is None:
            super().finish(delivery, outcome)
        elif isinstance(outcome, Retry) and not self.closed and self._owners.get(key) == ident:
            self._rest(current, outcome)
            return
        else:
            outcome = self._counted(current, outcome)
            super().finish(delivery, outcome)
        if key is not None:
            self._pass_on(key, ident)

    def stale(self, delivery: Delivery[Any]) -> None:
        """An execution that lost its lease has ended: now the next one may run."""
        if delivery.message.id in self._stale:
            self._stale.discard(delivery.message.id)
            self._pass_on(delivery.message.key, delivery.message.id)

    def lose(self, delivery: Delivery[Any]) -> bool:
        """Another worker has it now."""
        ident, key = delivery.message.id, delivery.message.key
        running = ident in self.contexts
        if not super().lose(delivery):
            return False
        self._spent.pop(ident, None)
        if (rest := self._rests.pop(ident, None)) is not None:
            rest.timer.cancel()
            self._set_aside(-1)
        for queue in (self.ready, self._lanes.get(key or "", deque[Delivery[Any]]())):
            for waiting in [each for each in queue if each.message.id == ident]:
                queue.remove(waiting)
                self._set_aside(0 if queue is self.ready else -1)
        if running and key is not None and self._owners.get(key) == ident:
            self._stale.add(ident)
        elif ident not in self._stale:
            self._pass_on(key, ident)
        return True

    def give_back(self) -> None:
        """Give back everything that no slot has taken; what waits for its retry with the rest of its delay."""
        super().give_back()
        rests = list(self._rests.items())
        waiting = [*self.ready, *(each for lane in self._lanes.values() for each in lane)]
        for each in (self._rests, self.ready, self._lanes):
            each.clear()
        self.aside = 0
        for ident, rest in rests:
            rest.timer.cancel()
            self.counters.retried -= 1  # it will be counted when it is written
            self._hand_back(ident, replace(rest.retry, delay=max(0.0, rest.due - self._clock.monotonic())))
        for delivery in waiting:
            self._hand_back(delivery.message.id, Release())

    def _hand_back(self, ident: str, outcome: Outcome) -> None:
        """What did not run any more: its last execution is among those counted already."""
        delivery = self.held[ident]
        if isinstance(outcome, Retry) and not self._spent.get(ident):
            outcome = replace(outcome, counts=False)
        elif isinstance(outcome, Retry):
            self._spent[ident] -= 1
            outcome = replace(outcome, counts=True)
        super().finish(delivery, self._counted(delivery, outcome))
        self._pass_on(delivery.message.key, ident)

    def _counted(self, delivery: Delivery[Any], outcome: Outcome) -> Outcome:
        """Have the executions in place written with the outcome."""
        ident, message = delivery.message.id, delivery.message
        spent = self._spent.pop(ident, 0)
        if not spent or isinstance(outcome, Ack):
            return outcome
        if isinstance(outcome, DeadLetter):
            self.held[ident] = replace(delivery, count=delivery.count + spent)
            return outcome
        if isinstance(outcome, Release):  # as a release it would be written with the attempt that it came with
            spent, outcome = spent - 1, Retry(outcome.delay)
        self.held[ident] = replace(delivery, message=replace(message, attempt=message.attempt + spent))
        return outcome

    def _rest(self, delivery: Delivery[Any], retry: Retry) -> None:
        """Wait for the retry here."""
        ident, delay = delivery.message.id, retry.delay or 0.0
        attempt = delivery.attempt + self._spent.get(ident, 0)
        self._spent[ident] = self._spent.get(ident, 0) + retry.counts
        timer = asyncio.create_task(self._run_again(ident, delay), name=f"retry {ident}")
        self._rests[ident] = Rest(self._clock.monotonic() + delay, retry, timer)
        self._set_aside(1)
        self.counters.retried += 1
        message, error = delivery.message, retry.error
        extra = {"stream": delivery.source, "type": message.type, "id": message.id, "attempt": attempt}
        cause = "" if error is None else f": {type(error).__name__}: {error}"
        logger.info("retry in %.3f s, keeping its turn%s", delay, cause, extra=extra)

    async def _run_again(self, ident: str, delay: float) -> None:
        await self._clock.sleep(delay)
        del self._rests[ident]
        self._set_aside(-1)
        delivery = self.held[ident]
        message = replace(delivery.message, attempt=delivery.message.attempt + self._spent.get(ident, 0))
        self._ready(replace(delivery, message=message))

    def _pass_on(self, key: str | None, ident: str) -> None:
        """The turn of a key goes to the next in its lane."""
        if key is None or self._owners.get(key) != ident:
            return
        lane = self._lanes.get(key)
        if not lane:
            del self._owners[key]
            self._lanes.pop(key, None)
            return
        following = lane.popleft()
        self._set_aside(-1)
        self._owners[key] = following.message.id
        self._ready(following)

    def _ready(self, delivery: Delivery[Any]) -> None:
        if delivery.count >= self._suspect_count:
            self.suspects.appendleft(delivery)
        else:
            self.ready.append(delivery)
        self.wake()

    def _set_aside(self, change: int) -> None:
        """Count what waits for its turn or its retry: it does not keep the intake from fetching for others."""
        self.aside += change
        if change > 0:
            self.room.set()


class OrderedSlots(Slots):
    """Slots that ask the ledger whose turn it is."""

    def __init__(
        self, ledger: OrderedLedger, executor: Executor, concurrency: int, clock: Clock, telemetry: Telemetry
    ) -> None:
        super().__init__(ledger, executor, concurrency, clock, telemetry)
        self._turns = ledger
        ledger.wake = self.wake

    def _next(self) -> Delivery[Any] | None:
        ledger = self._turns
        found: Delivery[Any] | None = None
        while ledger.suspects and self._suspect is None:
            suspect = ledger.suspects.popleft()
            if ledger.may_run(suspect):
                found = self._suspect = suspect
        found = found or ledger.take()
        if ledger.ready and self._idle:
            self.wake()
        return found
