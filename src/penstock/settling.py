"""The settler: outcomes leave in batches. While one batch is on its way, the next one gathers.

A broker that cannot be reached is asked again, for as long as it takes, with the same settlements; the leases are
renewed meanwhile. A batch that the broker refuses is settled one by one, so that one bad outcome does not hold up its
neighbours. What it refuses even so, its memory being full for instance, is put off and asked for again: the work is
done, and would be done twice if its message came back. Only what no driver can write is let go of, and comes back when
the lease lapses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

from .audit import Audit
from .broker import Broker, Settlement
from .clock import Clock
from .errors import BrokerError, ConnectionFailed
from .ledger import Ledger
from .message import Delivery
from .outage import OutageLog
from .outcome import Ack, DeadLetter, Retry
from .telemetry import LeaseLost, Telemetry

logger = logging.getLogger("penstock")

MAX_BATCH = 1000
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before an outcome that was refused is tried again
GATHER, GATHER_TURNS = 256, 8  # outcomes worth a round trip, and turns of the loop worth waiting for them


class Settler:
    """Writes the ledger's ``finished`` to the broker."""

    def __init__(
        self,
        broker: Broker[Any],
        ledger: Ledger,
        clock: Clock,
        telemetry: Telemetry,
        outage: OutageLog,
        archive: Audit | None = None,
    ) -> None:
        self._broker, self._ledger, self._clock = broker, ledger, clock
        self._telemetry, self._outage, self._archive = telemetry, outage, archive
        self._put_off: dict[str, int] = {}  # by message id, how often so far
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def down(self) -> bool:
        """Whether the last settlement could not reach the broker, or some outcome waits to be accepted by it."""
        return self._outage.down or bool(self._put_off)

    async def run(self) -> None:
        """Settle until cancelled."""
        try:
            await self._run()
        finally:
            for task in self._waiting:
                task.cancel()

    async def _run(self) -> None:
        ledger = self._ledger
        while True:
            await ledger.done.wait()
            ledger.done.clear()
            await self._gather()
            while ledger.finished:
                batch = ledger.finished[:MAX_BATCH]
                del ledger.finished[:MAX_BATCH]
                await self.settle(batch)

    async def _gather(self) -> None:
        """While more is about to finish anyway, let a few turns of the loop pass: one round trip for all of it."""
        ledger = self._ledger
        for _ in range(GATHER_TURNS):
            if not ledger.waiting or len(ledger.finished) >= GATHER:
                return
            await self._clock.sleep(0)

    async def settle(self, batch: Sequence[Settlement[Any]]) -> None:
        """Settle one batch for good."""
        ledger = self._ledger
        idents = [item.delivery.message.id for item in batch]
        ledger.settling.update(idents)
        try:
            batch, lost, tries = await self._insist(batch)
        except BaseException:
            ledger.settling.difference_update(idents)
            raise
        for item in batch if self._put_off else ():
            self._put_off.pop(item.delivery.message.id, None)
        if lost:
            batch = self._again_under_a_newer_lease(batch, lost)
        written = [] if self._archive is None else _told(self._archive, batch, lost, uncertain=tries > 1)
        ledger.settled(idents, (item.delivery for item in batch))
        self._count(batch, lost, uncertain=tries > 1)
        for each in written:
            await each

    def _again_under_a_newer_lease(
        self, batch: Sequence[Settlement[Any]], lost: Sequence[Delivery[Any]]
    ) -> Sequence[Settlement[Any]]:
        """Outcomes refused because this worker itself took the message again meanwhile go out once more."""
        renewed = {d.message.id for d in lost if self._ledger.held.get(d.message.id) is not d}
        for item in batch:
            if item.delivery.message.id in renewed:
                self._ledger.finish(item.delivery, item.outcome)
        return [item for item in batch if item.delivery.message.id not in renewed]

    async def _insist(
        self, batch: Sequence[Settlement[Any]]
    ) -> tuple[Sequence[Settlement[Any]], Sequence[Delivery[Any]], int]:
        """What was settled at last, what of it was lost, and how many tries it took."""
        tries = 0
        while True:
            tries += 1
            try:
                lost = await self._broker.settle(batch)
            except ConnectionFailed as error:
                await self._clock.sleep(self._outage.failed(error))
                held = self._ledger.held
                batch = [_renewed(item, held.get(item.delivery.message.id)) for item in batch]
            except Exception as error:  # noqa: BLE001 one bad outcome must not stop the settler
                if len(batch) > 1:
                    return (*await self._one_by_one(batch), tries + 1)  # some may have been applied before it
                if isinstance(error, BrokerError):
                    self._try_later(batch[0], error)
                else:
                    self._give_up(batch[0], error)
                return (), (), tries
            else:
                self._outage.recovered()
                return batch, lost, tries

    async def _one_by_one(self, batch: Sequence[Settlement[Any]]) -> tuple[list[Settlement[Any]], list[Delivery[Any]]]:
        settled: list[Settlement[Any]] = []
        lost: list[Delivery[Any]] = []
        for item in batch:
            done, gone, _ = await self._insist((item,))
            settled += done
            lost += gone
        return settled, lost

    def _try_later(self, item: Settlement[Any], error: BrokerError) -> None:
        """Keep it, leased, and hand it in again after a pause."""
        message = item.delivery.message
        times = self._put_off.get(message.id, 0)
        self._put_off[message.id] = times + 1
        if not times:
            extra = {"stream": item.delivery.source, "type": message.type, "id": message.id}
            logger.error("an outcome was refused, trying again: %s", error, extra=extra)
        task = asyncio.create_task(self._again(item, min(FIRST_PAUSE * 2.0 ** min(times, 16), LONGEST_PAUSE)))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _again(self, item: Settlement[Any], pause: float) -> None:
        await self._clock.sleep(pause)
        ident = item.delivery.message.id
        if ident in self._ledger.held:
            self._ledger.finish(item.delivery, item.outcome)
        else:  # its lease was lost meanwhile
            self._put_off.pop(ident, None)

    def _give_up(self, item: Settlement[Any], error: Exception) -> None:
        """Let go of it: what is held no longer is renewed no longer."""
        self._ledger.forget((item.delivery,))
        message = item.delivery.message
        extra = {"stream": item.delivery.source, "type": message.type, "id": message.id}
        logger.error(
            "an outcome could not be written and its message will come back when the lease lapses: %s",
            error,
            extra=extra,
            exc_info=error,
        )

    def lost_by_keeper(self, delivery: Delivery[Any]) -> None:
        """The lease keeper was told that another worker has this delivery."""
        if self._ledger.lose(delivery):
            self.lost(delivery)

    def lost(self, delivery: Delivery[Any]) -> None:
        """Tell that a lease was lost, and with it the outcome."""
        message = delivery.message
        extra = {"stream": delivery.source, "type": message.type, "id": message.id}
        self._ledger.counters.lost += 1
        logger.warning("lease lost: the outcome was not written, the message was handed over again", extra=extra)
        if self._telemetry:
            self._telemetry.emit(LeaseLost(delivery.source, delivery.group, message.type, message.id))

    def _perhaps_lost(self, delivery: Delivery[Any]) -> None:
        """An earlier try may have been applied although it failed; then nothing is lost at all."""
        message = delivery.message
        extra = {"stream": delivery.source, "type": message.type, "id": message.id}
        logger.info("settled by a try that failed, or the lease was lost meanwhile", extra=extra)

    def _count(self, batch: Sequence[Settlement[Any]], lost: Sequence[Delivery[Any]], *, uncertain: bool) -> None:
        counters = self._ledger.counters
        if lost:
            gone = {id(delivery) for delivery in lost}
            for item in batch:
                if id(item.delivery) in gone:
                    (self._perhaps_lost if uncertain else self.lost)(item.delivery)
            batch = [item for item in batch if id(item.delivery) not in gone]
        others = [item for item in batch if type(item.outcome) is not Ack]
        counters.acked += len(batch) - len(others)
        if logger.isEnabledFor(logging.DEBUG):
            for item in batch:
                if isinstance(item.outcome, Ack):
                    logger.debug("ack", extra=_fields(item))
        for item in others:
            outcome = item.outcome
            if isinstance(outcome, Retry):
                counters.retried += 1
                logger.info("retry in %.3f s%s", outcome.delay, _cause(outcome), extra=_fields(item))
            elif isinstance(outcome, DeadLetter):
                counters.dead += 1
                logger.warning("dead letter: %s%s", outcome.reason, _cause(outcome), extra=_fields(item))
            else:
                counters.released += 1


def _told(
    archive: Audit, batch: Sequence[Settlement[Any]], lost: Sequence[Delivery[Any]], *, uncertain: bool
) -> list[Awaitable[None]]:
    """Tell what was settled, at once: whoever is cancelled while it waits for the rows has told all the same."""
    gone = {id(delivery) for delivery in lost}
    done = [item for item in batch if id(item.delivery) not in gone]
    told = [archive.settled(done, confirmed=True)] if done else []
    if uncertain and len(done) < len(batch):
        told.append(archive.settled([item for item in batch if id(item.delivery) in gone], confirmed=False))
    return [each for each in told if each is not None]


def _renewed(item: Settlement[Any], held: Delivery[Any] | None) -> Settlement[Any]:
    """The same outcome under the newest lease."""
    return item if held is None or held is item.delivery else Settlement(delivery=held, outcome=item.outcome)


def _fields(item: Settlement[Any]) -> dict[str, Any]:
    delivery = item.delivery
    return {
        "stream": delivery.source,
        "type": delivery.message.type,
        "id": delivery.message.id,
        "attempt": delivery.attempt,
    }


def _cause(outcome: Retry | DeadLetter) -> str:
    error = outcome.error
    return "" if error is None else f": {type(error).__name__}: {error}"
