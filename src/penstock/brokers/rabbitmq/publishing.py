"""Publishing with confirms: batches in one write, and the fate of each message."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence

from aiormq import exceptions as amqp

from ...broker import Outgoing
from ...clock import Clock
from ...errors import BrokerError, EncodeError, PayloadTooLarge, UnsupportedFeature
from . import names, wire
from .channel import BatchChannel, Parcel, Unroutable
from .link import Line, Missing, translated
from .options import RabbitmqOptions
from .topology import Topology

MAX_BODY = 16 * 1024 * 1024  # the default limit of RabbitMQ 4; a larger message closes the channel of its neighbours
BATCH = 1000


class Publisher:
    """Writes copies and new messages. ``put`` is for parcels, ``publish`` for what users send."""

    def __init__(self, line: Line, topology: Topology, options: RabbitmqOptions, clock: Clock) -> None:
        self._line, self._topology, self._options, self._clock = line, topology, options, clock
        self._channel: BatchChannel | None = None
        self._opening = asyncio.Lock()
        self._prefix, self._serial = os.urandom(8).hex(), itertools.count(1)

    def new_id(self) -> str:
        return f"{self._prefix}-{next(self._serial)}"

    async def put(self, parcels: Sequence[Parcel]) -> list[Exception | None]:
        """Publish and wait for the confirms. Raises ``ConnectionFailed`` if the fates are unknown."""
        fates: list[Exception | None] = []
        for start in range(0, len(parcels), BATCH):
            fates += await self._put(parcels[start : start + BATCH])
        return fates

    async def _put(self, parcels: Sequence[Parcel]) -> list[Exception | None]:
        await self._line.unblocked()
        async with self._opening:
            if self._channel is None or not self._channel.alive:
                self._channel = await self._line.channel()
            channel = self._channel
        try:
            async with translated("publishing", self._line):
                try:
                    return await asyncio.wait_for(channel.publish(parcels), self._options.timeout)
                except amqp.ChannelPreconditionFailed as error:
                    raise BrokerError(f"publishing: RabbitMQ refused a message: {error}") from error
        except Missing:  # the exchange
            self._topology.forget()
            raise

    async def publish(self, items: Sequence[Outgoing]) -> list[str | Exception]:
        """The id of each message, or why it was not published."""
        fates: list[str | Exception] = []
        parcels: list[Parcel] = []
        places: list[int] = []
        for item in items:
            ident = item.message.id or self.new_id()
            try:
                parcels.append(self._parcel(item, ident))
            except Exception as wrong:  # noqa: BLE001 - whatever the encoders say of what a user hands in
                fates.append(wrong if isinstance(wrong, EncodeError | PayloadTooLarge) else _refused(wrong))
                continue
            places.append(len(fates))
            fates.append(ident)
        good = [items[place] for place in places]
        await self.prepare(good)
        found = await self.put(parcels)
        lost = [n for n, fate in enumerate(found) if isinstance(fate, Unroutable)]
        if lost:
            self._topology.forget()
            for n in lost:
                await self._topology.backlog(good[n].destination)
            await self.prepare(good)
            for n, fate in zip(lost, await self.put([parcels[n] for n in lost]), strict=True):
                found[n] = fate
        for place, fate in zip(places, found, strict=True):
            if fate is not None:
                fates[place] = fate
        return fates

    async def prepare(self, items: Sequence[Outgoing]) -> None:
        """Declare what the messages need."""
        await self._topology.exchange()
        for item in items:
            if item.delay > 0:
                await self._topology.ladder(item.destination, names.steps(item.delay))

    def _parcel(self, item: Outgoing, ident: str) -> Parcel:
        source, message = item.destination, item.message
        names.check(source)
        if "*" in source or "#" in source:
            raise EncodeError(f"{source!r} is a pattern to subscribe to, not a place to publish to")
        if item.once is not None:
            raise UnsupportedFeature("RabbitMQ keeps no keys: it cannot publish once; deduplicate in the consumer")
        if len(message.body) > MAX_BODY:
            raise PayloadTooLarge(f"a body on RabbitMQ has at most {MAX_BODY} bytes, got {len(message.body)}")
        found = wire.properties(message, ident)
        if self._options.exchange_type == "headers":
            found.headers = {**(found.headers or {}), "penstock-source": source}
        if item.delay > 0:
            return self.delayed(source, names.DUE, item.delay, Parcel("", "", found, message.body, wire.RESERVED))
        return Parcel(self._options.exchange, source, found, message.body, wire.RESERVED)

    def delayed(self, source: str, target: str, delay: float, parcel: Parcel) -> Parcel:
        """The same by way of the ladder."""
        if delay > names.MAX_DELAY:
            raise EncodeError(f"RabbitMQ delays by at most {names.MAX_DELAY:.0f} seconds, got {delay:.0f}")
        steps = names.steps(delay)
        parcel.exchange = names.step_exchange(steps[0])
        parcel.key = names.delay_key(steps, source, target)
        return parcel


def _refused(wrong: Exception) -> Exception:
    if isinstance(wrong, BrokerError | UnsupportedFeature):
        return wrong
    return EncodeError(f"RabbitMQ cannot carry this message: {wrong}")
