"""A process among others of one Sidekiq database: what it says of itself at each beat, and what it hears."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..brokers.sidekiq import SidekiqBroker
from ..brokers.sidekiq.processes import ProcessInfo, WorkEntry
from ..clock import Clock
from ..version import __version__
from ..worker import Worker
from .config import Config
from .data.data import Data
from .data.process_set import ProcessSet
from .leader import Leader
from .metrics import Tracker
from .server import examine

logger = logging.getLogger("penstock.sidekiq")

BEAT_TTL = 20.0  # seconds for which a beat holds
SLOW_RTT, SLOW_IN_A_ROW = 50_000, 5  # microseconds of one PING; beats


class Membership:
    """``beaten``: called after each beat, told whether the process was unknown before it."""

    def __init__(
        self,
        broker: SidekiqBroker,
        worker: Worker,
        tracker: Tracker,
        clock: Clock,
        beaten: Callable[[bool], Awaitable[Any]],
    ) -> None:
        self._broker, self._worker, self._tracker, self._clock = broker, worker, tracker, clock
        self._told = beaten
        self._leader = Leader(broker.client, broker.identity)
        self._seen: dict[int, float] = {}
        self._slow = 0
        broker.work, broker.on_beat = self.work, self._beaten

    def introduce(self, config: Config, *, embedded: bool) -> None:
        """Say who this is, from the next beat on."""
        self._broker.about = ProcessInfo(
            tag=config.process_tag(),
            labels=config.labels,
            capsules={name: capsule.facts() for name, capsule in config.capsules.items()},
            embedded=embedded,
            version=f"penstock {__version__}",
        )

    @property
    def leading(self) -> bool:
        """Whether this process is the leader of all, as of the last beat."""
        return self._leader.leading

    def work(self) -> Sequence[WorkEntry]:
        """What runs now; since when, as far as beats have seen it."""
        now, seen, found = self._clock.time(), dict[int, float](), list[WorkEntry]()
        for consumer in self._worker.consumers:
            for running in consumer.running:
                for ident, context in list(running.ledger.contexts.items()):
                    delivery = running.ledger.held.get(ident)
                    if delivery is not None:
                        began = seen[id(context)] = self._seen.get(id(context), now)
                        tid = _base36(id(context))
                        raw: bytes = delivery.receipt.raw
                        found.append(WorkEntry(tid=tid, queue=delivery.source, payload=raw, run_at=began))
        self._seen = seen
        return found

    async def arrive(self) -> None:
        """Look where we are."""
        await examine(self._broker.client)

    async def tell(self) -> None:
        """Beat now: whoever looks sees at once what has changed."""
        try:
            await self._broker.beat(self._worker.presence(self._broker), BEAT_TTL)
        except Exception as error:  # noqa: BLE001 the next beat says it too
            logger.debug("a beat out of turn failed: %s", error)

    async def leave(self) -> None:
        """What has been counted since the last beat, and the leadership for somebody else."""
        try:
            await self._tracker.flush(self._broker.client)
            await self._leader.resign()
        except Exception as error:  # noqa: BLE001 a stop goes on, whatever Redis says
            logger.warning("the last metrics could not be written: %s", error)
        finally:
            await self._broker.close()

    async def _beaten(self, rtt_us: int, *, first: bool) -> None:
        self._slow = self._slow + 1 if rtt_us > SLOW_RTT else 0
        if self._slow >= SLOW_IN_A_ROW:
            self._slow = 0
            text = "Redis answers slowly: the last %d PINGs took more than %d ms each; is this process or Redis short of CPU?"
            logger.warning(text, SLOW_IN_A_ROW, SLOW_RTT // 1000)
        if first:
            await ProcessSet(Data.of(self._broker)).cleanup()
        await self._leader.campaign()
        await self._tracker.flush(self._broker.client)
        await self._told(first)


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
    return text[-6:] or "0"
