"""Jobs that were popped: each under a lease that is renewed until it is completed, failed or given back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..audit import Audit
from ..broker import Broker, Settlement, Subscription, SupportsPause, SupportsReclaim, SupportsSchedule
from ..clock import Clock
from ..errors import ConfigurationError, DecodeError, LostLease, UnknownType
from ..executor import crashes
from ..job import JOBS, Job
from ..message import Delivery
from ..outage import Outages
from ..outcome import DeadLetter, Outcome
from ..services.leases import KeeperThread, LeaseKeeper
from ..sidekiq.processor import MAX_CRASHES
from ..telemetry import Telemetry
from .handling import begin, job_id

LEASE = 30.0
PAGE = 100
LOOK = 1.0  # seconds between two looks for what others have left, while there is something else


class Holding:
    """What was popped from one broker and is not settled yet."""

    def __init__(self, broker: Broker[Any], archive: Audit | None, clock: Clock, telemetry: Telemetry) -> None:
        self.broker, self._archive, self._clock, self._telemetry = broker, archive, clock, telemetry
        self._held: dict[int, tuple[Job, Delivery[Any]]] = {}
        self._looked: dict[str, float] = {}
        self._keeper: KeeperThread | None = None

    async def pop(self, queues: Sequence[str], group: str) -> Job | None:
        """The next job of these queues; what is none, or has cost too many owners, becomes a dead letter on the way."""
        while (delivery := await self._take(queues, group)) is not None:
            if delivery.count > MAX_CRASHES:
                await self._settle(delivery, DeadLetter("poison", meta=crashes(delivery)))
                continue
            try:
                job = _understood(delivery)
            except Exception as error:  # noqa: BLE001 whatever is wrong with it, it is not lost
                reason = "unknownType" if isinstance(error, UnknownType) else "undecodable"
                await self._settle(delivery, DeadLetter(reason, error))
                continue
            self._hold(job, delivery)
            return job
        return None

    async def _take(self, queues: Sequence[str], group: str) -> Delivery[Any] | None:
        """The next message of these queues, the first one's first, but for those that are paused."""
        await self.broker.open()
        paused = await self.broker.paused() if isinstance(self.broker, SupportsPause) else frozenset[str]()
        keyed = self.broker.capabilities.keyed
        for queue in (each for each in queues if each not in paused):
            subscription = Subscription(source=queue, group=group, lease=LEASE, keyed=keyed)
            if isinstance(self.broker, SupportsSchedule):
                await self.broker.promote_due(queue, PAGE)
            found = await self._lapsed(subscription, LOOK)
            if not found:
                found = await self.broker.fetch(subscription, 1, 0.0)
            if not found:
                found = await self._lapsed(subscription, 0.0)
            if found:
                return found[0]
        return None

    async def _lapsed(self, subscription: Subscription, every: float) -> Sequence[Delivery[Any]]:
        """What somebody who died had popped; looked for every so many seconds, however much else there is."""
        broker, now = self.broker, self._clock.monotonic()
        if not isinstance(broker, SupportsReclaim) or now < self._looked.get(subscription.source, -every) + every:
            return ()
        self._looked[subscription.source] = now
        found: Sequence[Delivery[Any]] = await broker.reclaim(subscription, 1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - a runtime check forgets R
        return found

    def _hold(self, job: Job, delivery: Delivery[Any]) -> None:
        self._held[id(job)] = (job, delivery)
        if self._keeper is None:
            keeper = LeaseKeeper(self.broker, "popped jobs", LEASE, self._deliveries, _nothing)
            self._keeper = KeeperThread(self._clock, random.SystemRandom(), self._telemetry)
            self._keeper.add(keeper, Outages())
            self._keeper.start()

    def __contains__(self, job: Job) -> bool:
        return id(job) in self._held

    async def settle(self, job: Job, outcome: Outcome) -> None:
        """Write what became of a job. Raises ``LostLease`` if another owner has it by now."""
        held = self._held.get(id(job))
        if held is None:
            raise ConfigurationError(f"{job!r:.100} was not popped here, or is settled already; pop() it first")
        lost = await self._settle(held[1], outcome)
        self._held.pop(id(job), None)
        if lost:
            raise LostLease(f"the lease of {job.wire_name} {job.jid} has passed to another worker; nothing was done")

    async def _settle(self, delivery: Delivery[Any], outcome: Outcome) -> bool:
        """Whether the lease was lost. Raises ``NotArchived`` if it was settled and its row is not there yet."""
        settlement = Settlement(delivery=delivery, outcome=outcome)
        if await self.broker.settle([settlement]):
            return True
        written = None if self._archive is None else self._archive.settled([settlement], confirmed=True)
        if written is not None:
            await written
        return False

    async def close(self) -> None:
        """Renew nothing any more. The broker's own ``close`` gives back what is held."""
        self._held.clear()
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            await keeper.stop()

    def _deliveries(self) -> list[Delivery[Any]]:
        return [delivery for _, delivery in tuple(self._held.values())]


def _nothing(_: Delivery[Any]) -> None:
    """Who lost a lease hears of it when he settles."""


def _understood(delivery: Delivery[Any]) -> Job:
    cls = JOBS.resolve(delivery.message.type)
    if delivery.defect is not None:
        raise DecodeError(delivery.defect)
    if cls is None:
        raise UnknownType(f"no job class is registered as {delivery.message.type!r}")
    job: Job = cls.fields().decode(delivery.message.body)
    begin(job, job_id(delivery.message), delivery.attempt + 1)
    return job
