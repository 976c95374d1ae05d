"""Settling: acks in one write; everything else as a copy, confirmed before the original is acked.

A crash between the two leaves a message twice, never not at all. Both have the same ``message_id``, and should the
original come back to the process that made the copy, it is recognised and acked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from pamqp import commands as spec

from ...broker import Settlement
from ...errors import BrokerError
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from . import names, wire
from .channel import Parcel, Unroutable
from .holdings import Held, Receipt, ack
from .reading import Reader
from .shared import Shared

COMING_BACK = 1.0  # seconds to wait for what a broken connection held to come back
UNCOUNTED = (4, 3)  # the first release in which a nack counts nothing


class Settler:
    """Applies outcomes to what is held."""

    def __init__(self, core: Shared, readers: Callable[[], Iterable[Reader]]) -> None:
        self._core, self._readers = core, readers

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> list[Delivery[Receipt]]:
        """See the port."""
        holdings = self._core.holdings
        table = holdings.table
        known = [(item, table.get(item.delivery.receipt)) for item in settlements]
        for _, held in known:
            while held is not None and held.busy:  # noqa: ASYNC110 - it is moving, which takes one confirm
                await asyncio.sleep(0.005)
        orphans = [held for _, held in known if held is not None and not held.channel.alive]
        if orphans:
            await self._recover(orphans)
        lost: list[Delivery[Receipt]] = []
        acked: list[Held] = []
        moving: list[tuple[Held, Settlement[Receipt]]] = []
        for item, _ in known:
            held = table.get(item.delivery.receipt)
            if held is None or held.busy or not held.channel.alive:
                lost.append(item.delivery)
                if held is not None and not held.busy:
                    # Done it is all the same: should it come back to us, it need not be run again
                    (holdings.done if isinstance(item.outcome, Ack) else holdings.drop)(held)
                continue
            held.busy = True
            if isinstance(item.outcome, Ack):
                acked.append(held)
                holdings.done(held)
            else:
                moving.append((held, item))
        ack(acked)
        if moving:
            await self._move(moving)
        return lost

    async def give_back(self, helds: Sequence[Held]) -> None:
        """As if they had never been fetched. Raises what publishing raises."""
        await self._apply([(held, self._released(held, 0.0)) for held in helds])

    async def _move(self, moving: Sequence[tuple[Held, Settlement[Receipt]]]) -> None:
        pairs: list[tuple[Held, Parcel | None]] = []
        try:
            for held, item in moving:
                pairs.append((held, await self._parcel(held, item.delivery, item.outcome)))
            await self._apply(pairs)
        finally:
            for held, _ in moving:
                held.busy = False

    async def _apply(self, pairs: Sequence[tuple[Held, Parcel | None]]) -> None:
        """Publish copies and ack the originals whose copy is safe; without a copy the original goes back itself."""
        back = [held for held, parcel in pairs if parcel is None]
        for held in back:
            held.channel.settled(held.tag)
            held.channel.write(spec.Basic.Nack(delivery_tag=held.tag, requeue=True))
            self._core.holdings.drop(held)
        moved = [(held, parcel) for held, parcel in pairs if parcel is not None]
        parcels = [parcel for _, parcel in moved]
        fates = await self._core.publisher.put(parcels)
        again = [n for n, fate in enumerate(fates) if isinstance(fate, Unroutable)]
        if again:  # a queue has gone: make it, and once more
            self._core.topology.forget()
            for n in again:
                await self._declare(moved[n][0], parcels[n])
            for n, fate in zip(again, await self._core.publisher.put([parcels[n] for n in again]), strict=True):
                fates[n] = fate
        safe = [held for (held, _), fate in zip(moved, fates, strict=True) if fate is None]
        for held in safe:
            self._core.holdings.done(held)
        ack(safe)
        for fate in fates:
            if fate is not None:
                raise fate if isinstance(fate, BrokerError) else BrokerError(str(fate)) from fate

    async def _declare(self, held: Held, parcel: Parcel) -> None:
        await self._core.topology.group(held.source, held.group)
        if parcel.exchange:
            bits = parcel.key.split(".")[: names.BITS]
            steps = [names.BITS - 1 - n for n, bit in enumerate(bits) if bit == "1"]
            top = int(parcel.exchange.rpartition("-")[2])
            await self._core.topology.ladder(held.source, [*range(top, names.BITS - 1, -1), *steps])

    async def _parcel(self, held: Held, delivery: Delivery[Receipt], outcome: Outcome) -> Parcel | None:
        core, now = self._core, self._core.clock.time()
        match outcome:
            case Retry(delay=delay, counts=counts):
                attempt = delivery.attempt + 1 if counts else delivery.message.attempt
                again = wire.retried(held.properties, held.ident, attempt, now)
                return await self._to_group(held, again, delay or 0.0)
            case DeadLetter():
                await core.topology.dead(held.source)
                letter = core.publisher.new_id()
                found = wire.buried(held.properties, delivery, outcome, core.identity, letter, now)
                return Parcel("", names.beside(held.source, "dead"), found, held.body)
            case Release(delay=delay) if delay > 0:
                again = wire.copied(held.properties, held.ident, count=held.count - 1)
                return await self._to_group(held, again, delay)
            case _:
                return self._released(held, 0.0)

    def _released(self, held: Held, _: float) -> Parcel | None:
        if self._core.taking.version >= UNCOUNTED:
            return None
        again = wire.copied(held.properties, held.ident, count=held.count - 1)
        return Parcel("", held.where, again, held.body)

    async def _to_group(self, held: Held, found: spec.Basic.Properties, delay: float) -> Parcel:
        parcel = Parcel("", held.where, found, held.body)
        if delay <= 0:
            return parcel
        await self._core.topology.ladder(held.source, names.steps(delay))
        return self._core.publisher.delayed(held.source, held.group, delay, parcel)

    async def _recover(self, orphans: Sequence[Held]) -> None:
        """Wait a moment for what a broken connection held: the server gives it to whoever asks first."""
        clock = self._core.clock
        deadline = clock.monotonic() + COMING_BACK
        while missing := [
            held for held in orphans if not held.channel.alive and held.token in self._core.holdings.table
        ]:
            for reader in list(self._readers()):
                if any(held.source in reader.lanes and held.group == reader.group for held in missing):
                    await reader.recover(len(missing))
            if not any(not held.channel.alive for held in missing):
                return
            if clock.monotonic() >= deadline:
                break
            await asyncio.sleep(0.05)
