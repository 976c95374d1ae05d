"""The driver: the port of ``penstock.broker`` on Sidekiq's schema, safe where Ruby's own worker is not.

Jobs lie where Sidekiq has them: ``queue:NAME``, ``schedule``, ``retry``, ``dead``; Ruby clients push them and Ruby
workers take them as ever. What is taken here lies in a list of its owner until it is settled: see ``taking``. A lease is
an owner's: ``pq:procs`` says until when, and whoever reclaims takes from owners whose time is over. Fencing: an outcome
first removes the job from its owner's list, in the same script; what is not there is somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ...broker import FOREVER, Capabilities, Outgoing, Promoted, Settlement, Subscription
from ...checks import known
from ...clients.opening import redis_client
from ...clients.redis import Arg, RedisClient
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import InvalidURL
from ...message import Delivery
from . import publishing, scheduling
from .failing import Cleaner, Failing
from .holdings import Holdings, by_holdings, extend
from .inspection import SidekiqInspection
from .options import Receipt, SidekiqOptions, new_identity
from .scheduling import Repush
from .scripts import LEAVE, SETTLE
from .settling import outcome_args
from .taking import Reader, give_back

MAX_BATCH = 1000
PREFIX = "sidekiq+"
_DEFAULTS = SidekiqOptions()


class SidekiqBroker(SidekiqInspection):
    """One owner of jobs on one server."""

    capabilities = Capabilities(
        max_delay=FOREVER,
        ordered=True,
        persistent=True,
        idempotent=True,
        retentions=("workqueue",),
        several=True,
        max_batch=MAX_BATCH,
        max_body=256 * 1024 * 1024,
    )

    def __init__(
        self,
        client: RedisClient,
        *,
        options: SidekiqOptions = _DEFAULTS,
        clock: Clock = SYSTEM_CLOCK,
        original: SidekiqBroker | None = None,
    ) -> None:
        super().__init__(client, options, clock)
        self._original = original
        self.identity: str = original.identity if original else options.identity or new_identity()
        self.repush: Repush | None = None
        self._failing = Failing(options.timestamps)
        self._holdings: dict[str, Holdings] = original._holdings if original else {}  # noqa: SLF001 - our own class
        self._readers: dict[str, Reader] = {}
        self._opened = False

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, timeout: float = 10.0, **options: Any) -> SidekiqBroker:
        """A broker at ``url``; ``options`` are those of ``SidekiqOptions``. Raises ``InvalidURL``."""
        known("a Sidekiq broker", options, SidekiqOptions.__struct_fields__)
        client = redis_client(url.removeprefix(PREFIX), timeout=timeout)
        if client.clustered:
            raise InvalidURL("Sidekiq's keys cannot be spread over a cluster: use one server, or sentinels")
        return cls(client, options=SidekiqOptions(**options), clock=clock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, identity={self.identity!r})"

    def clean_backtraces(self, cleaner: Cleaner | None) -> None:
        """Show each backtrace that is to be kept to ``cleaner`` first."""
        self._failing.cleaner = cleaner

    # ----------------------------------------------------------------------------------------------------- lifecycle

    async def open(self) -> None:
        if not self._opened:
            await self.client.call("PING")
            self._opened = True

    async def close(self) -> None:
        self._opened = False
        readers, self._readers = self._readers, {}
        try:
            for reader in readers.values():
                await reader.close()
            if self._original is None:
                members = [member for reader in readers.values() for member in reader.members]
                await give_back(self.client, LEAVE, members)
                self._holdings.clear()
        finally:
            await self.client.close()

    def fork(self) -> SidekiqBroker:
        return SidekiqBroker(
            self.client.fork(), options=self.options, clock=self._clock, original=self._original or self
        )

    # ------------------------------------------------------------------------------------------------------- the port

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return await publishing.publish(self.client, messages, self._clock.time(), self.options.timestamps)

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        queues = subscription.queues or (subscription.source,)
        return await self._reader(subscription).fetch(queues, min(limit, MAX_BATCH), wait)

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[Receipt]]:
        queues = subscription.queues or (subscription.source,)
        grace = self.options.foreign_grace
        return await self._reader(subscription).reclaim(queues, min(limit, MAX_BATCH), above, below, grace)

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        now = self._clock.time()
        day = _day(now)
        args: list[Arg] = [self.options.dead_max_jobs, int(self.options.dead_timeout), day]
        lost: list[Delivery[Receipt]] = []
        sent: list[tuple[Holdings, Delivery[Receipt]]] = []
        for item in settlements:
            delivery = item.delivery
            holdings = self._holder(delivery)
            if holdings is None:
                lost.append(delivery)
                continue
            args += outcome_args(holdings, item, self._failing, now)
            sent.append((holdings, delivery))
        if not sent:
            return lost
        applied = await self.client.run(SETTLE, (), args)
        for (holdings, delivery), done in zip(sent, applied, strict=True):
            holdings.drop(delivery)
            if not done:
                lost.append(delivery)
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        parts, lost = by_holdings(self._holdings, deliveries)
        for name, part in parts.items():
            lost += await extend(self.client, self._holdings[name], part, lease, self._clock.monotonic())
        return lost

    # -------------------------------------------------------------------------------------------------- capabilities

    async def promote_due(self, destination: str, limit: int, *, delayed: str | None = None) -> Promoted:
        """As the port says, for all queues: Sidekiq's sets are common to them."""
        limit = min(limit, MAX_BATCH)
        return await scheduling.promote(self.client, limit, self._clock.time(), self.options.timestamps, self.repush)

    def _reader(self, subscription: Subscription) -> Reader:
        name = f"{subscription.source}/{subscription.group}"
        reader = self._readers.get(name)
        if reader is None:
            holdings = self._holdings.get(name)
            if holdings is None:
                holdings = self._holdings[name] = Holdings(self.identity, len(self._holdings), subscription)
            reader = self._readers[name] = Reader(self.client, holdings, self._clock)
        return reader

    def _holder(self, delivery: Delivery[Receipt]) -> Holdings | None:
        for holdings in list(self._holdings.values()):
            if holdings.holds(delivery):
                return holdings
        return None


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
