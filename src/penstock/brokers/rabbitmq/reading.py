"""One subscription, read by one process.

A fetch asks how much is ready and opens a consumer with a window for as much of it as is wanted: full at once as a
rule, and cancelled then (``window`` says why only then). If nothing is ready it waits with a window for one message,
then asks again. So hardly anything comes that nobody asks for, and nothing lies about here while handlers are slow. A
window that others left too little for stays open for the next fetch, one in each lane. What comes meanwhile, or in
vain (after a cancelled fetch), stays in the buffer. When nobody fetches any more windows are cancelled as they are.
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
from .window import Window

BACKLOG_EVERY = 1.0  # seconds between looks for what was published while there was no group


Relay: TypeAlias = Callable[[str, int], Awaitable[None]]


class Ticket:
    """One fetch, as the one who asked sees it: given up or not, and what it was given."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.taken: Sequence[Held] = ()


class Reader:
    """``lanes``: the sources. ``asked``: when somebody fetched last."""

    def __init__(self, core: Shared, parking: Parking, relay: Relay, subscription: Subscription) -> None:
        self._core, self._parking, self._relaying = core, parking, relay
        self._start = subscription.start
        self.lanes, self.group = subscription.queues or (subscription.source,), subscription.group
        for source in self.lanes:
            names.check(source, self.group)
        self.lock = asyncio.Lock()
        self.buffers: list[deque[Held]] = [deque() for _ in self.lanes]
        self._channel: BatchChannel | None = None
        self._windows: dict[int, Window] = {}  # by lane: those that can be given something
        self._prefetch = 0
        self._serial = itertools.count(1)
        self._arrived = asyncio.Event()
        self._backlog_at = float("-inf")
        self.asked = core.clock.monotonic()

    async def fetch(
        self, subscription: Subscription, limit: int, wait: float, ticket: Ticket
    ) -> list[Delivery[Receipt]]:
        """See the port."""
        order = [self.lanes.index(source) for source in subscription.queues or (subscription.source,)]
        async with self.lock:
            try:
                await self._filled(order, limit, wait, ticket)
            except Missing:  # a queue was deleted since it was last seen: make it anew
                self._core.topology.forget()
                await self._filled(order, limit, wait, ticket)
            finally:
                self.asked = self._core.clock.monotonic()
            if ticket.stop.is_set():
                await self.shut()
                return []
            return self._take(order, subscription.lease, limit, ticket)

    async def _filled(self, order: Sequence[int], limit: int, wait: float, ticket: Ticket) -> None:
        """Have something to hand out, if there is something."""
        await self.prepare()
        if limit <= 0 or ticket.stop.is_set():
            return
        if not any(self.buffers):
            await self._look(order, limit, wait, ticket)
        elif len(self.lanes) > 1:  # what lies here is not to go before what has come to an earlier lane since
            await self._in_turn(order, limit)

    async def prepare(self) -> BatchChannel:
        """Queues and a channel."""
        for source in self.lanes:
            await self._core.topology.group(source, self.group)
        if self._channel is None or not self._channel.alive:
            self._core.holdings.orphan()  # it may have gone just now, and nobody been told yet
            self._channel = await self._core.taking.channel(self._sink)
            self._channel.cancelled = self._gone
            self._windows.clear()
            self._prefetch = 0
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

    async def shut(self) -> None:
        """Nobody fetches any more. What is assigned in this very moment counts as handed over."""
        channel, windows = self._channel, list(self._windows.values())
        self._windows.clear()
        if channel is None or not channel.alive:
            return
        async with translated(f"reading {self.lanes[0]!r} no more", self._core.taking):
            for window in windows:
                await channel.call(spec.Basic.Cancel(consumer_tag=window.tag), self._core.options.timeout)

    async def _look(self, order: Sequence[int], limit: int, wait: float, ticket: Ticket) -> None:
        self._arrived.clear()
        await self._relay()
        await self._in_turn(order, limit)
        if not any(self.buffers) and wait > 0:
            for lane in order:
                if lane not in self._windows:
                    await self._open(lane, 1)
            if not ticket.stop.is_set():
                await wait_until(self._arrived, self._core.clock, wait)
            if any(self.buffers) and not ticket.stop.is_set():
                await self._in_turn(order, limit)
        self._living()

    async def _in_turn(self, order: Sequence[int], limit: int) -> None:
        earlier = 0
        for lane in order:
            missing = limit - earlier - len(self.buffers[lane])
            if missing > 0:
                await self._burst(lane, missing)
            earlier += len(self.buffers[lane])

    async def _burst(self, lane: int, count: int) -> None:
        """Take ``count`` more messages of a lane, if it has them now."""
        if lane in self._windows:
            there = len(self.buffers[lane])
            await self._overtaken()
            count -= len(self.buffers[lane]) - there
            if lane in self._windows or count <= 0:
                return  # what was ready would have filled the window
        queue = names.group_queue(self.lanes[lane], self.group)
        if ready := await self._core.topology.waiting(queue):
            await self._open(lane, min(count, ready))
            if lane in self._windows:
                await self._overtaken()

    async def _open(self, lane: int, size: int) -> None:
        """Let the server hand over this many messages of a lane."""
        channel, timeout = self._living(), self._core.options.timeout
        window = Window(f"{next(self._serial)}.{lane}", min(size, 65_535))
        queue = names.group_queue(self.lanes[lane], self.group)
        async with translated(f"fetching from {self.lanes[lane]!r}", self._core.taking):
            if window.size != self._prefetch:
                await channel.call(spec.Basic.Qos(prefetch_count=window.size), timeout)
                self._prefetch = window.size
            self._windows[lane] = window
            await channel.call(spec.Basic.Consume(queue=queue, consumer_tag=window.tag), timeout)

    async def _overtaken(self) -> None:
        """Have what was on its way: it comes before the answer to this."""
        async with translated(f"fetching from {self.lanes[0]!r}", self._core.taking):
            await self._living().call(spec.Basic.Qos(prefetch_count=self._prefetch), self._core.options.timeout)

    def _living(self) -> BatchChannel:
        if self._channel is None or not self._channel.alive:
            raise ConnectionFailed("fetching: the connection to RabbitMQ was closed")
        return self._channel

    async def _relay(self) -> None:
        """Publish, for all groups there are now, what came while there was none."""
        now = self._core.clock.monotonic()
        if self._start != "first" or now - self._backlog_at < BACKLOG_EVERY:
            return
        for source in self.lanes:
            if count := await self._core.topology.waiting(names.beside(source, "backlog")):
                await self._relaying(source, count)
        self._backlog_at = now

    def _gone(self, tag: str) -> None:
        """The server has cancelled a consumer: the queue was deleted, or has moved."""
        self._windows = {lane: window for lane, window in self._windows.items() if window.tag != tag}
        self._core.topology.forget()
        self._backlog_at = float("-inf")  # what was published meanwhile is there
        self._arrived.set()

    def _sink(self, arrival: Arrival) -> None:
        """Put a message into the buffer, unless we know it already."""
        core, lane = self._core, int(arrival.consumer.rpartition(".")[2])
        channel, tag, found = arrival.channel, arrival.tag, arrival.properties
        channel.unsettled[tag] = self._narrowed(channel, lane, arrival.consumer)
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

    def _narrowed(self, channel: BatchChannel, lane: int, tag: str) -> Window | None:
        """The window that a message came to. It is closed when that was the last one that fits."""
        window = self._windows.get(lane)
        if channel is not self._channel or window is None or window.tag != tag:
            return None
        window.held += 1
        if window.full:
            channel.write(spec.Basic.Cancel(consumer_tag=tag, nowait=True))
            del self._windows[lane]
        return window

    def _take(self, order: Sequence[int], lease: float, limit: int, ticket: Ticket) -> list[Delivery[Receipt]]:
        taken: list[Held] = []
        for lane in order:
            buffer = self.buffers[lane]
            while buffer and len(taken) < limit:
                held = buffer.popleft()
                if held.channel.alive:
                    taken.append(held)
        ticket.taken = taken
        return [self._delivery(held, lease) for held in taken]

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
