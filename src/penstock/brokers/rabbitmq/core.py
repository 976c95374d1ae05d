"""The broker's working parts, on the thread of the connections; several brokers (forks) may share one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict, deque
from collections.abc import Sequence

from pamqp import commands as spec

from ...broker import Outgoing, Settlement, Subscription
from ...clock import Clock
from ...errors import BrokerError
from ...message import Delivery
from . import names, wire
from .channel import BatchChannel, Parcel
from .holdings import Held, Holdings, Receipt, ack
from .options import RabbitmqAddress, RabbitmqOptions
from .parking import Parking
from .reading import Reader, Ticket
from .settling import Settler
from .shared import Shared
from .taking import take

logger = logging.getLogger("penstock")

LOOKS = 10  # at the leases, in the time of the shortest one
IDLE = 5.0  # seconds without a fetch after which nothing more is taken in, or a lease if that is shorter
RELAY = 500


class Core(Shared):
    """Everything that one owner has on one server. Called on its own loop only."""

    def __init__(self, address: RabbitmqAddress, options: RabbitmqOptions, identity: str, clock: Clock) -> None:
        super().__init__(address, options, identity, clock)
        self.taking.lost, self.taking.ended = self._lost, self._ended
        self.settler = Settler(self, self.readers)
        self.parking = Parking(self)
        self._readers: dict[tuple[frozenset[str], str], Reader] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._settling = 0
        self._shortest = options.hold

    async def open(self) -> None:
        """Connect, and see that the exchange is as it should be."""
        self.topology.forget()
        await self.topology.exchange()

    async def close(self, *, giving_back: bool) -> None:
        """Give back, disconnect."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if giving_back:
            with contextlib.suppress(BrokerError):  # then the server takes it all back with the connection, counted
                async with asyncio.timeout(self.options.timeout):
                    while self._settling:  # noqa: ASYNC110 - a confirm away
                        await asyncio.sleep(0.005)
                    await self._give_back()
        self.holdings = Holdings(self.clock)
        self._readers.clear()
        await self.publishing.close()
        await self.taking.close()
        self.topology.forget()

    async def _give_back(self) -> None:
        for reader in self._readers.values():  # or what is given back would come again
            await reader.shut()
        helds = [held for held in self.holdings.table.values() if held.channel.alive]
        for reader in self._readers.values():
            for buffer in reader.buffers:
                helds += [held for held in buffer if held.channel.alive]
                buffer.clear()
        await self.settler.give_back(helds)
        # The acks are on their way when the server has answered something behind them
        for channel in {held.channel for held in helds}:
            with contextlib.suppress(Exception):
                await channel.call(spec.Basic.Qos(prefetch_count=1), self.options.timeout)

    def reader(self, subscription: Subscription) -> Reader:
        # In whatever order they are asked for: what came for one order is there for the next
        key = (frozenset(subscription.queues or (subscription.source,)), subscription.group)
        if key not in self._readers:
            self._readers[key] = Reader(self, self.parking, self.relay, subscription)
        return self._readers[key]

    def readers(self) -> list[Reader]:
        return list(self._readers.values())

    async def fetch(
        self, subscription: Subscription, limit: int, wait: float, ticket: Ticket
    ) -> list[Delivery[Receipt]]:
        """See the port."""
        if limit > 0:
            self._shortest = min(self._shortest, subscription.lease)
            if self._keeper is None:
                self._keeper = asyncio.create_task(self._keep())
        return await self.reader(subscription).fetch(subscription, limit, wait, ticket)

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """See the port."""
        return await self.publisher.publish(items)

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> list[Delivery[Receipt]]:
        """See the port."""
        self._settling += 1
        try:
            return await self.settler.settle(settlements)
        finally:
            self._settling -= 1

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> list[Delivery[Receipt]]:
        """See the port."""
        return [d for d in deliveries if not self.holdings.extend(d.receipt, lease)]

    async def relay(self, source: str, count: int) -> None:
        """Publish what came while there was no group, ``count`` messages, to all groups there are now.

        No more than those: what no group takes comes back to where it was.
        """
        backlog: deque[Held] = deque()
        queue, channel = names.beside(source, "backlog"), None
        try:
            while count > 0:
                channel = await take(self, queue, min(count, RELAY), backlog, channel)
                if not backlog:
                    return
                count -= len(backlog)
                ack(await self._relayed(source, backlog))
                backlog.clear()
        finally:
            if channel is not None:
                await end(channel)

    async def _relayed(self, source: str, backlog: Sequence[Held]) -> list[Held]:
        parcels: list[Parcel] = []
        for held in backlog:
            found = wire.copied(held.properties, held.ident or self.publisher.new_id())
            parcels.append(Parcel(self.options.exchange, source, found, held.body))
        fates = await self.publisher.put(parcels)
        return [held for held, fate in zip(backlog, fates, strict=True) if fate is None]

    def _lost(self) -> None:
        self._ended()
        self.topology.forget()

    def _ended(self) -> None:
        """What came by a channel that is closed is the server's again."""
        for reader in self._readers.values():
            reader.lost()
        self.holdings.orphan()

    async def _keep(self) -> None:
        """Look after the leases: those that have lapsed end, and what is held for long moves."""
        while True:
            await self.clock.sleep(min(self._shortest / LOOKS, 1.0))
            now = self.clock.monotonic()
            for held in [h for h in self.holdings.table.values() if h.deadline <= now and not h.busy]:
                self._lapse(held)
            for work in (self._give_back_stale, self._park_long):
                try:
                    await work(now)
                except BrokerError:
                    pass  # the next look finds it again
                except Exception:  # without these looks no lease would ever end
                    logger.exception("leases of %s cannot be looked after; trying again", self.address.masked)

    def _lapse(self, held: Held) -> None:
        """Its owner was silent for too long: hand it to others, which counts."""
        self.holdings.drop(held)
        if held.channel.alive:
            held.channel.settled(held.tag)
            held.channel.write(spec.Basic.Reject(delivery_tag=held.tag, requeue=True))

    async def _give_back_stale(self, now: float) -> None:
        """What lies in a buffer for which nobody asks any more. What cannot be given back stays there."""
        for reader in self.readers():
            if not reader.lock.locked() and now - reader.asked > min(self._shortest, IDLE):
                async with reader.lock:
                    await reader.shut()
            stale = [h for buffer in reader.buffers for h in buffer if now - h.since > self._shortest]
            if stale and not reader.lock.locked():
                async with reader.lock:
                    try:
                        await self.settler.give_back([h for h in stale if h.channel.alive])
                    finally:
                        reader.lost()

    async def _park_long(self, now: float) -> None:
        groups: defaultdict[tuple[str, str], list[Held]] = defaultdict(list)
        for held in self.holdings.table.values():
            if now - held.since >= self.options.hold and not held.busy and held.channel.alive:
                groups[held.source, held.group].append(held)
        for helds in groups.values():
            await self.parking.park(helds)


async def end(channel: BatchChannel) -> None:
    """Close a channel; what is unacked on it goes back."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(channel.close(), 2.0)
