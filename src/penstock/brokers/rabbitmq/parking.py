"""Holding on to what runs for long.

The server ends the channel of a consumer that keeps a delivery unacknowledged for longer than its ``consumer_timeout``
(30 minutes), and hands all its messages to others. So long before that a copy of the message goes to a queue of this
worker's own, from which only it reads, and the original is acked; the copy's time begins anew, and so on for as long as
the job runs. What is waiting in such a queue, because its worker died or lost its connection, goes back to the group by
itself after a time to live: while it is unacknowledged here it never does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import TypeAlias

from pamqp import commands as spec

from ...errors import BrokerError
from . import wire
from .channel import Arrival, BatchChannel, Parcel
from .holdings import Held, Key, ack, key_of
from .link import translated
from .shared import Shared

Came: TypeAlias = asyncio.Future[tuple[BatchChannel, int, spec.Basic.Properties]]

BACK_AFTER = 30.0  # seconds, or the lease if that is longer


class Parking:
    """The queues of this worker's own, one for each group of a source that had to wait for long."""

    def __init__(self, core: Shared) -> None:
        self._core = core
        self._channels: dict[tuple[str, str], BatchChannel] = {}
        self._queues: dict[tuple[str, str], str] = {}
        self._expected: dict[Key, Came] = {}
        self._owner = blake2b(core.identity.encode(), digest_size=6).hexdigest()

    async def park(self, helds: Sequence[Held]) -> None:
        """Move them, all of one group of one source. What cannot be moved now is tried again."""
        for held in helds:
            held.busy = True
        try:
            await self._park(helds)
        except BrokerError:
            pass  # the next look finds them again, long before the server's limit
        finally:
            for held in helds:
                held.busy = False

    async def _park(self, helds: Sequence[Held]) -> None:
        core, (source, group) = self._core, (helds[0].source, helds[0].group)
        ttl = max(BACK_AFTER, *(held.lease for held in helds))
        if (queue := self._queues.get((source, group))) is None:
            queue = self._queues[source, group] = await core.topology.held(source, group, self._owner, ttl)
        await self._listen(source, group)
        parcels: list[Parcel] = []
        moving: list[tuple[Held, Key, Came]] = []
        for held in helds:
            # Each try is another copy: one that comes late is not to be taken for its successor
            copy = wire.copied(held.properties, held.ident, count=held.count, copy=wire.unlike_any())
            if (key := key_of(held.where, copy)) is not None:
                self._expected[key] = came = asyncio.get_running_loop().create_future()
                moving.append((held, key, came))
                parcels.append(Parcel("", queue, copy, held.body))
        try:
            fates = await core.publisher.put(parcels)
            self._refused(source, group, [key for (_, key, _), fate in zip(moving, fates, strict=True) if fate])
            if coming := [came for (_, key, came) in moving if key in self._expected]:
                await asyncio.wait(coming, timeout=core.options.timeout)
        finally:
            for held, _, came in moving:
                self._moved(held, came)

    def _refused(self, source: str, group: str, keys: Collection[Key]) -> None:
        """These will never come. As a rule somebody has deleted the queue: the next look makes it anew."""
        for key in keys:
            del self._expected[key]
        if keys:
            self._forget(source, group)

    def _forget(self, source: str, group: str) -> None:
        self._queues.pop((source, group), None)
        self._channels.pop((source, group), None)

    def _moved(self, held: Held, came: Came) -> None:
        """From here on the copy is the message; one that comes only now is acked on arrival instead (``_arrived``)."""
        if not came.cancel():
            channel, tag, found = came.result()
            ack([held])
            # The copy counts the crash that may still come; this handing-over is the same one
            held.again(channel, tag, found, self._core.clock.monotonic())

    async def resume(self, sources: Collection[str], group: str) -> None:
        """After a broken connection: what is waiting in our own queues is ours again."""
        for source, of in list(self._queues):
            if of == group and source in sources:
                await self._listen(source, group)

    async def _listen(self, source: str, group: str) -> None:
        channel = self._channels.get((source, group))
        if channel is not None and channel.alive:
            return
        queue, core = self._queues[source, group], self._core
        channel = await core.taking.channel(lambda message: self._arrived(source, group, message))
        channel.cancelled = lambda _: self._forget(source, group)
        async with translated(f"reading {queue!r}", core.taking):
            await channel.call(spec.Basic.Consume(queue=queue, consumer_tag="held"), core.options.timeout)
        self._channels[source, group] = channel

    def _arrived(self, source: str, group: str, arrival: Arrival) -> None:
        channel, tag, found = arrival.channel, arrival.tag, arrival.properties
        channel.unsettled[tag] = None
        held = Held(channel, tag, source, group, found, arrival.body)
        held.since = self._core.clock.monotonic()
        if held.key is None:
            return
        if (expected := self._expected.pop(held.key, None)) is not None:
            if expected.done():  # too late: the original stays where it is
                ack([held])
            else:
                expected.set_result((channel, tag, found))
        elif (orphan := self._core.holdings.orphans.pop(held.key, None)) is not None:
            orphan.again(channel, tag, found, held.since)
        elif self._core.holdings.was_done(held):
            ack([held])
        # Anything else is another attempt's: it stays unacked until this channel ends, and goes back to the group
