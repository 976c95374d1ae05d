"""One subscription, read by one process.

A fetch opens a consumer whose window is what was asked for and cancels it again: the server hands over no more than
that, and nothing lies about here while handlers are slow. What it had handed over when the cancellation is confirmed
has arrived by then. Only what comes in vain (after a cancelled fetch) stays in the buffer, for the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from pamqp import commands as spec

from ...broker import Subscription
from ...clock import wait_until
from ...errors import ConnectionFailed
from ...message import Delivery
from . import names, wire
from .channel import Arrival, BatchChannel
from .holdings import Held, Receipt, ack
from .link import Missing, translated
from .parking import Parking
from .shared import Shared

BACKLOG_EVERY = 1.0  # seconds between looks for what was published while there was no group


Relay: TypeAlias = Callable[[str, int], Awaitable[None]]


class Ticket:
    """One fetch, as the one who asked sees it: given up or not, and what it was given."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.taken: Sequence[Held] = ()


class Reader:
    """``lanes``: the sources, in the order in which they are taken from."""

    def __init__(self, core: Shared, parking: Parking, relay: Relay, subscription: Subscription) -> None:
        self._core, self._parking, self._relaying = core, parking, relay
        self._start = subscription.start
        self.lanes, self.group = subscription.queues or (subscription.source,), subscription.group
        for source in self.lanes:
            names.check(source, self.group)
        self.lock = asyncio.Lock()
        self.buffers: list[deque[Held]] = [deque() for _ in self.lanes]
        self._channel: BatchChannel | None = None
        self._window = 0
        self._serial = itertools.count(1)
        self._arrived = asyncio.Event()
        self._backlog_at = float("-inf")

    async def fetch(
        self, subscription: Subscription, limit: int, wait: float, ticket: Ticket
    ) -> list[Delivery[Receipt]]:
        """See the port."""
        async with self.lock:
            try:
                await self._filled(limit, wait, ticket)
            except Missing:  # a queue was deleted since it was last seen: make it anew
                self._core.topology.forget()
                await self._filled(limit, wait, ticket)
            return [] if ticket.stop.is_set() else self._take(subscription, limit, ticket)

    async def _filled(self, limit: int, wait: float, ticket: Ticket) -> None:
        """Have something to hand out, if there is something."""
        await self.prepare()
        if limit <= 0 or ticket.stop.is_set():
            return
        if not any(self.buffers):
            await self._look(limit, wait, ticket)
        elif len(self.lanes) > 1:  # what lies here is not to go before what has come to an earlier lane since
            await self._in_turn(limit)

    async def prepare(self) -> BatchChannel:
        """Queues and a channel."""
        for source in self.lanes:
            await self._core.topology.group(source, self.group)
        if self._channel is None or not self._channel.alive:
            self._core.holdings.orphan()  # it may have gone just now, and nobody been told yet
            self._channel = await self._core.taking.channel(self._sink)
            self._channel.cancelled = self._gone
            self._window = 0
            await self._parking.resume(self.lanes, self.group)
        return self._channel

    def lost(self) -> None:
        """What came by a channel that has gone, or was given back, is ours no more."""
        for buffer in self.buffers:
            kept = [held for held in buffer if held.channel.alive and held.tag in held.channel.unsettled]
            buffer.clear()
            buffer.extend(kept)
        if self._channel is None or not self._channel.alive:
            self._arrived.set()

    def give_up(self, ticket: Ticket) -> None:
        """Nobody waits for this fetch any more: what it took is for the next."""
        ticket.stop.set()
        self._arrived.set()
        for held in reversed(ticket.taken):
            known = held.token in self._core.holdings.table
            self._core.holdings.drop(held)
            if known and held.channel.alive:
                self.buffers[self.lanes.index(held.source)].appendleft(held)

    async def recover(self, count: int) -> None:
        """Look whether orphans have come back; if so they are ours again."""
        async with self.lock:
            await self.prepare()
            for lane in range(len(self.lanes)):
                await self._burst(lane, count)

    async def _look(self, limit: int, wait: float, ticket: Ticket) -> None:
        await self._relay()
        if len(self.lanes) == 1:
            await self._consume((0,), limit, wait, ticket)
            return
        await self._in_turn(limit)
        if not any(self.buffers) and wait > 0:
            await self._consume(range(len(self.lanes)), 1, wait, ticket)
            if any(self.buffers) and not ticket.stop.is_set():
                await self._in_turn(limit)

    async def _in_turn(self, limit: int) -> None:
        for lane in range(len(self.lanes)):
            missing = limit - sum(map(len, self.buffers[: lane + 1]))
            if missing > 0:
                await self._burst(lane, missing)

    async def _burst(self, lane: int, count: int) -> None:
        await self._consume((lane,), count, 0.0, None)

    async def _consume(self, lanes: Sequence[int], count: int, wait: float, ticket: Ticket | None) -> None:
        """Open windows, wait for a first message, close them: then everything handed over is here."""
        channel = self._channel
        if channel is None:
            raise ConnectionFailed("fetching: the connection to RabbitMQ was closed")
        core, timeout = self._core, self._core.options.timeout
        self._arrived.clear()
        async with translated(f"fetching from {self.lanes[0]!r}", core.taking):
            if count != self._window:
                await channel.call(spec.Basic.Qos(prefetch_count=min(count, 65_535)), timeout)
                self._window = count
            tags = [f"{next(self._serial)}.{lane}" for lane in lanes]
            for tag, lane in zip(tags, lanes, strict=True):
                queue = names.group_queue(self.lanes[lane], self.group)
                await channel.call(spec.Basic.Consume(queue=queue, consumer_tag=tag), timeout)
            if wait > 0 and not (ticket is not None and ticket.stop.is_set()):
                await wait_until(self._arrived, core.clock, wait)
            for tag in tags:
                await channel.call(spec.Basic.Cancel(consumer_tag=tag), timeout)
        if not channel.alive:
            raise ConnectionFailed("fetching: the connection to RabbitMQ was closed")

    async def _relay(self) -> None:
        """Publish, for all groups there are now, what came while there was none."""
        now = self._core.clock.monotonic()
        if self._start != "first" or now - self._backlog_at < BACKLOG_EVERY:
            return
        for source in self.lanes:
            if count := await self._core.topology.waiting(names.beside(source, "backlog")):
                await self._relaying(source, count)
        self._backlog_at = now

    def _gone(self, _: str) -> None:
        """The server has cancelled a consumer: the queue was deleted, or has moved."""
        self._core.topology.forget()
        self._backlog_at = float("-inf")  # what was published meanwhile is there
        self._arrived.set()

    def _sink(self, arrival: Arrival) -> None:
        """Put a message into the buffer, unless we know it already."""
        core, lane = self._core, int(arrival.consumer.rpartition(".")[2])
        channel, tag, found = arrival.channel, arrival.tag, arrival.properties
        channel.unsettled[tag] = None
        held = Held(channel, tag, self.lanes[lane], self.group, found, arrival.body)
        held.since = core.clock.monotonic()
        if arrival.redelivered and held.key is not None:
            if core.holdings.was_done(held):
                ack([held])
                return
            if (orphan := core.holdings.orphans.pop(held.key, None)) is not None:
                orphan.again(channel, tag, found, held.since)
                return
        self.buffers[lane].append(held)
        self._arrived.set()

    def _take(self, subscription: Subscription, limit: int, ticket: Ticket) -> list[Delivery[Receipt]]:
        taken: list[Held] = []
        for buffer in self.buffers:
            while buffer and len(taken) < limit:
                held = buffer.popleft()
                if held.channel.alive:
                    taken.append(held)
        ticket.taken = taken
        return [self._delivery(held, subscription.lease) for held in taken]

    def _delivery(self, held: Held, lease: float) -> Delivery[Receipt]:
        if not held.ident:
            held.ident = self._core.publisher.new_id()
        message, defect = wire.read(held.properties, held.body, held.ident)
        return Delivery(
            message=message,
            source=held.source,
            group=held.group,
            receipt=self._core.holdings.lease(held, lease),
            count=held.count,
            defect=defect,
        )
