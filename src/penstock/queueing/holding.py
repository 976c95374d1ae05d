"""Jobs that were popped: each under a lease that is renewed until it is completed, failed or given back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..broker import Broker, Settlement, Subscription, SupportsReclaim, SupportsSchedule
from ..clock import Clock
from ..errors import ConfigurationError, LostLease
from ..job import Job
from ..message import Delivery
from ..outage import Outages
from ..outcome import Outcome
from ..services.leases import KeeperThread, LeaseKeeper
from ..telemetry import Telemetry

LEASE = 30.0
PAGE = 100


class Holding:
    """What was popped from one broker and is not settled yet."""

    def __init__(self, broker: Broker[Any], clock: Clock, telemetry: Telemetry) -> None:
        self.broker, self._clock, self._telemetry = broker, clock, telemetry
        self._held: dict[int, tuple[Job, Delivery[Any]]] = {}
        self._keeper: KeeperThread | None = None

    async def take(self, queues: Sequence[str], group: str) -> Delivery[Any] | None:
        """The next message of these queues, the first one's first."""
        await self.broker.open()
        for queue in queues:
            subscription = Subscription(source=queue, group=group, lease=LEASE)
            if isinstance(self.broker, SupportsSchedule):
                await self.broker.promote_due(queue, PAGE)
            found: Sequence[Delivery[Any]] = await self.broker.fetch(subscription, 1, 0.0)
            if not found and isinstance(self.broker, SupportsReclaim):
                found = await self.broker.reclaim(subscription, 1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - a runtime check forgets R
            if found:
                return found[0]
        return None

    def hold(self, job: Job, delivery: Delivery[Any]) -> None:
        """Keep the lease of a job that was popped."""
        self._held[id(job)] = (job, delivery)
        if self._keeper is None:
            keeper = LeaseKeeper(self.broker, "popped jobs", LEASE, self._deliveries, _nothing)
            self._keeper = KeeperThread([(keeper, Outages())], self._clock, random.SystemRandom(), self._telemetry)
            self._keeper.start()

    def __contains__(self, job: Job) -> bool:
        return id(job) in self._held

    async def settle(self, job: Job, outcome: Outcome) -> None:
        """Write what became of a job. Raises ``LostLease`` if another owner has it by now."""
        held = self._held.get(id(job))
        if held is None:
            raise ConfigurationError(f"{job!r:.100} was not popped here, or is settled already; pop() it first")
        lost = await self.broker.settle([Settlement(delivery=held[1], outcome=outcome)])
        self._held.pop(id(job), None)
        if lost:
            raise LostLease(f"the lease of {job.wire_name} {job.jid} has passed to another worker; nothing was done")

    async def refuse(self, delivery: Delivery[Any], outcome: Outcome) -> None:
        """Settle what became no job."""
        await self.broker.settle([Settlement(delivery=delivery, outcome=outcome)])

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
