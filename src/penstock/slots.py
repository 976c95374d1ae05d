"""The slots: a fixed number of tasks that run deliveries one after another.

Slots pull from the ledger's queue, so a handler that never suspends costs no task and no trip through the loop. A slot
that takes work wakes the next one while there is more. Suspects, which may be what kills workers, run one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from .clock import Clock
from .executor import Executor
from .ledger import Ledger
from .message import Delivery
from .outcome import DISCARDED, DeadLetter, Outcome, Release, Retry
from .telemetry import Finished, OutcomeName, Started, Telemetry

logger = logging.getLogger("penstock")

CANCEL_GRACE = 5.0  # seconds that a cancelled handler gets to clean up
RELEASE = Release()
WAKING = 2  # idle slots that are woken at once
TURN = 64  # messages after which a slot lets the loop have a turn, should its handlers never suspend


class Slots:
    """``concurrency`` tasks between the ledger's ``waiting`` and ``finished``."""

    def __init__(
        self, ledger: Ledger, executor: Executor, concurrency: int, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._ledger, self._executor, self._clock, self._telemetry = ledger, executor, clock, telemetry
        self._concurrency = concurrency
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._suspect: Delivery[Any] | None = None
        self._waking = self._yielding = 0
        self._stopped = False
        self.running = 0

    def start(self) -> None:
        """Start the tasks."""
        self._stopped = False
        self._tasks = [asyncio.create_task(self._slot(), name=f"slot-{n}") for n in range(self._concurrency)]

    @property
    def alive(self) -> bool:
        """Whether every slot still takes work; one ends only with the whole, or by a fault of ours."""
        return not any(task.done() for task in self._tasks)

    def wake(self) -> None:
        """There is work: one slot is enough, it wakes the next. No more than a few are on their way at once."""
        while self._idle and self._waking < WAKING:
            future = self._idle.pop()
            if not future.done():
                self._waking += 1
                future.set_result(None)
                return

    async def stop(self) -> None:
        """Cancel whatever runs and wait until it has ended; what was running is released."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stubborn = await asyncio.wait(self._tasks, timeout=CANCEL_GRACE)
            if stubborn:
                logger.error("%d handlers ignore their cancellation and are left behind", len(stubborn))
        self._tasks.clear()

    async def _slot(self) -> None:
        ledger, executor, listeners = self._ledger, self._executor, self._telemetry.listeners
        turn = 0
        while True:
            # A slot that only lets the loop have a turn goes on by itself: others would but crowd the loop.
            delivery = None if self._yielding else self._next()
            if delivery is None:
                await self._rest()
                turn = 0
                continue
            if ledger.waiting and self._idle:
                self.wake()
            ident = delivery.message.id
            if ident in ledger.held:  # else its lease was lost while it waited
                context = ledger.contexts[ident] = executor.context(delivery)
                began = self._begin(delivery) if listeners else 0.0
                outcome: Outcome = RELEASE  # should this slot be cancelled
                self.running += 1
                try:
                    outcome = await executor.execute(delivery, context)
                finally:
                    self.running -= 1
                    if ledger.contexts.get(ident) is context:  # else the lease of this very execution was lost
                        del ledger.contexts[ident]
                        ledger.finish(delivery, outcome)
                    else:
                        ledger.stale(delivery)
                    if self._suspect is delivery:
                        self._suspect = None
                if listeners:
                    self._end(delivery, outcome, began)
            elif self._suspect is delivery:
                self._suspect = None
            turn += 1
            if turn >= TURN:
                turn = 0
                await self._yield()

    async def _rest(self) -> None:
        if self._stopped:  # its handler came to an end on the cancellation, as if it had been its own
            raise asyncio.CancelledError
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            await future
        finally:
            self._waking -= 1

    async def _yield(self) -> None:
        self._yielding += 1
        try:
            await self._clock.sleep(0)
        finally:
            self._yielding -= 1

    def _next(self) -> Delivery[Any] | None:
        ledger = self._ledger
        if ledger.suspects and self._suspect is None:
            self._suspect = ledger.suspects.popleft()
            return self._suspect
        return ledger.waiting.popleft() if ledger.waiting else None

    def _begin(self, delivery: Delivery[Any]) -> float:
        message = delivery.message
        waited = None if message.enqueued_at is None else max(0.0, self._clock.time() - message.enqueued_at)
        self._telemetry.emit(Started(delivery.source, delivery.group, message.type, waited))
        return self._clock.monotonic()

    def _end(self, delivery: Delivery[Any], outcome: Outcome, began: float) -> None:
        self._telemetry.emit(
            Finished(
                delivery.source,
                delivery.group,
                delivery.message.type,
                delivery.message.id,
                delivery.attempt,
                outcome_name(outcome),
                self._clock.monotonic() - began,
                outcome.reason if isinstance(outcome, DeadLetter) else "expired" if outcome is DISCARDED else "",
            )
        )


def outcome_name(outcome: Outcome) -> OutcomeName:
    """The word for an outcome in logs and metrics."""
    if isinstance(outcome, Retry):
        return "retry"
    if isinstance(outcome, DeadLetter):
        return "dead"
    if outcome is DISCARDED:
        return "discard"
    return "release" if isinstance(outcome, Release) else "ack"
