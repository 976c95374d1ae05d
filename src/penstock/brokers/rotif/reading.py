"""A pattern's stream and that of its retries, read by one owner as one subscription.

One blocking read waits for both. What is handed back, lapsed or cut off is looked for in both, each by a reader of the
kind that the Redis Streams driver has for one stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from ...clients.redis import RedisClient
from ...clock import Clock
from ...message import Delivery, Message
from ..redis_streams.options import Receipt, RedisStreamsOptions
from ..redis_streams.reading import GroupReader, Membership, predecessor
from ..redis_streams.wire import Unreadable, pick
from .wire import read_entry


class StreamReader(GroupReader):
    """Reads one stream of Rotif entries."""

    async def deliver(self, entries: Iterable[Sequence[Any]], start: float) -> list[Delivery[Receipt]]:
        """Entries as ``[id, fields]`` or as the claim script says → deliveries, without what is meant for others."""
        membership = self.membership
        deadline = membership.deadline(start, membership.subscription.lease)
        source, group = membership.subscription.source, membership.subscription.group
        held, found, others = dict[str, Receipt](), list[Delivery[Receipt]](), list[str]()
        for entry in entries:
            ident, fields, defect = entry[0].decode(), entry[1], None
            receipt = Receipt(deadline, b"", fields)
            try:
                message, only = read_entry(ident, fields)
                if only is not None and only != group:
                    others.append(ident)
                    continue
            except Unreadable as wrong:
                defect, message = str(wrong), Message(id=ident, type="", body=pick(fields)[1] or b"")
            count = entry[2] if len(entry) > 2 else 1
            held[ident] = receipt
            delivery = Delivery(
                message=message, source=source, group=group, receipt=receipt, count=count, defect=defect
            )
            found.append(replace(delivery, predecessor=predecessor(entry)) if len(entry) > 2 else delivery)
        if others:
            await self._pass_by(others)
        membership.held.update(held)
        return found

    _deliver = deliver


class RetryReader(StreamReader):
    """What beside the main stream's reader knows of the retries. It never waits by itself."""

    main: RotifReader

    def look_soon(self, ghosts: int = 0) -> None:
        self.ghosts += ghosts
        self.main.look_soon()

    async def make(self) -> None:
        """Make the group."""
        await self._make_group()

    async def look(self, limit: int) -> list[Delivery[Receipt]]:
        """Take what was handed back."""
        return await self._look(limit)

    async def hand_back(self, ids: Sequence[str]) -> None:
        """Give back what was read beyond the limit, uncounted."""
        await self._hand_back(ids)

    def cut_off(self) -> None:
        """A read may have taken something that nobody saw."""
        self._recover_soon()


class RotifReader(StreamReader):
    """Reads both streams."""

    def __init__(
        self,
        client: RedisClient,
        owner: str,
        memberships: tuple[Membership, Membership],
        options: RedisStreamsOptions,
        clock: Clock,
    ) -> None:
        super().__init__(client, owner, memberships[0], options, clock)
        self.retries = RetryReader(client, owner, memberships[1], options, clock)
        self.retries.main = self

    async def reclaim(self, limit: int, above: int, below: int | None) -> list[Delivery[Receipt]]:
        found = await super().reclaim(limit, above, below)
        if len(found) < limit:
            found += await self.retries.reclaim(limit - len(found), above, below)
        self._count_ghosts()
        return found

    async def _read(self, limit: int, wait: float) -> list[Delivery[Receipt]]:
        retries = self.retries
        streams = (self.membership.subscription.source, retries.membership.subscription.source)
        start = self._clock.monotonic()
        reply = await self._read_group(streams, limit, wait)
        found: list[Delivery[Receipt]] = []
        for name, entries in reply:
            reader: StreamReader = retries if name.decode("utf-8", "surrogateescape") == streams[1] else self
            taken = await reader.deliver(entries[: limit - len(found)], start)
            if surplus := entries[max(limit - len(found), 0) :]:  # the limit is for each stream, not for both
                await retries.hand_back([entry[0].decode() for entry in surplus])
                self.look_soon()
            found += taken
        return found

    async def _look(self, limit: int) -> list[Delivery[Receipt]]:
        found = await super()._look(limit)
        if len(found) < limit:
            found += await self.retries.look(limit - len(found))
        self._count_ghosts()
        return found

    def _count_ghosts(self) -> None:
        self.ghosts, self.retries.ghosts = self.ghosts + self.retries.ghosts, 0

    def _recover_soon(self) -> None:
        super()._recover_soon()
        self.retries.cut_off()

    async def _make_group(self) -> None:
        await super()._make_group()
        await self.retries.make()
