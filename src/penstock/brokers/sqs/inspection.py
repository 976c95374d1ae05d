"""For people: sizes, dead letters, purge. SQS lets nobody look without taking, so not everything can be offered.

Sizes are the service's own approximations. Dead letters are received, looked at and shown again: while one person reads
them, they are hidden from another for some seconds. ``peek`` is refused, because it would count as a delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...broker import DeadMessage, GroupStats, StreamStats
from ...clock import Clock
from ...errors import BrokerError, UnsupportedFeature
from ...message import Message
from . import wire
from .batches import TEN, Batches
from .connection import Connection, QueueMissing
from .names import FIFO, Names, Queues
from .options import SqsOptions
from .publishing import addressed

LOOK = 30  # seconds for which dead letters are hidden while they are read
MOST_DEAD = 10_000  # dead letters looked at in one call
EMPTY_LOOKS = 2  # receives in a row that bring nothing, before a queue counts as read through

_Raw = Mapping[str, Any]


class SqsInspection:
    """The part of the broker that looks and mends."""

    options: SqsOptions
    identity: str
    _connection: Connection
    _names: Names
    _queues: Queues
    _batches: Batches
    _clock: Clock

    async def sources(self) -> Sequence[str]:
        found, token = set[str](), {}
        while True:
            answer = await self._connection.short(
                "list_queues", QueueNamePrefix=self.options.prefix, MaxResults=1000, **token
            )
            for url in answer.get("QueueUrls") or ():
                if (source := self._names.source(url.rpartition("/")[2])) is not None:
                    found.add(source)
            if not (following := answer.get("NextToken")):
                return sorted(found)
            token = {"NextToken": following}

    async def stats(self, source: str) -> StreamStats:
        own, dead = await asyncio.gather(self._sizes(self._names.queue(source)), self._sizes(self._names.dead(source)))
        if own is None:
            return StreamStats(source=source, size=0, delayed=0, dead=sum(dead or ()), oldest_age=None, groups=())
        waiting, leased, delayed = own
        group = GroupStats(name="default", leased=leased, lag=waiting, owners=0)
        return StreamStats(
            source=source,
            size=waiting + leased,
            delayed=delayed,
            dead=sum(dead or ()),
            oldest_age=None,
            groups=(group,),
        )

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        if await self._queues.find(self._names.queue(source)) is None:
            return []
        raise UnsupportedFeature(
            f"nobody can look into an SQS queue without taking from it, and {source!r} counts that as a delivery; its"
            " sizes are in `penstock stats`"
        )

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        """The oldest of those that can be seen now. Each call reads the whole queue, up to ``MOST_DEAD``."""
        queue = self._names.dead(source)
        raws = await self._look_through(queue)
        await self._show(queue, raws)
        letters = sorted(map(self._letter, raws), key=lambda letter: letter.id)
        return [letter for letter in letters if after is None or letter.id > after][:limit]

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        """Each is written to its queue and deleted then: who dies between the two leaves it in both."""
        dead, queue = self._names.dead(source), self._names.queue(source)
        chosen = await self._chosen(dead, ids)
        found = [raw for raw in chosen if self._letter(raw).raw is None]
        entries = list[dict[str, Any]]()
        for raw in found:
            message = wire.dead_message(self._letter(raw).message)
            entry = wire.entry(msgspec.structs.replace(message, enqueued_at=self._clock.time()))
            entries.append(addressed(entry, message) if queue.endswith(FIFO) else entry)
        fates = await self._batches.send(queue, entries)
        moved = [raw["ReceiptHandle"] for raw, fate in zip(found, fates, strict=True) if isinstance(fate, str)]
        await self._batches.delete(dead, moved)
        await self._show(dead, [raw for raw in chosen if raw["ReceiptHandle"] not in moved])
        if errors := [fate for fate in fates if isinstance(fate, Exception)]:
            raise BrokerError(f"{len(errors)} of {len(fates)} dead letters stay where they are: {errors[0]}")
        return len(moved)

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        dead = self._names.dead(source)
        found = await self._chosen(dead, ids)
        return sum(await self._batches.delete(dead, [raw["ReceiptHandle"] for raw in found]))

    async def purge(self, source: str) -> int:
        """By PurgeQueue, which SQS allows once a minute, and only while nothing is leased: it would go as well."""
        queue = self._names.queue(source)
        sizes = await self._sizes(queue)
        if sizes is None:
            return 0
        waiting, leased, delayed = sizes
        if leased:
            raise UnsupportedFeature(
                f"{leased} messages of {source!r} are being worked on, and SQS would purge them as well: stop its"
                " workers first (`penstock stats` shows when nothing is leased any more)"
            )
        await self._queues.on(queue, lambda url: self._connection.short("purge_queue", QueueUrl=url))
        return waiting + delayed

    async def _sizes(self, queue: str) -> tuple[int, int, int] | None:
        """Messages waiting, leased and delayed; ``None`` if there is no such queue."""
        url = await self._queues.find(queue)
        if url is None:
            return None
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        try:
            answer = await self._connection.short("get_queue_attributes", QueueUrl=url, AttributeNames=names)
        except QueueMissing:
            self._queues.forget(queue)
            return None
        waiting, leased, delayed = (int(answer["Attributes"].get(name, 0)) for name in names)
        return waiting, leased, delayed

    async def _chosen(self, queue: str, ids: Sequence[str]) -> list[_Raw]:
        """The dead letters with these ids, hidden from others for a moment; the rest is shown again."""
        wanted, chosen, others = set(ids), list[_Raw](), list[_Raw]()
        for raw in await self._look_through(queue):
            (chosen if self._letter(raw).id in wanted else others).append(raw)
        await self._show(queue, others)
        return chosen

    async def _show(self, queue: str, raws: Sequence[_Raw]) -> None:
        """Let others see them again at once."""
        await self._batches.show(queue, [raw["ReceiptHandle"] for raw in raws], [0] * len(raws))

    async def _look_through(self, queue: str) -> list[_Raw]:
        found, empty = dict[str, _Raw](), 0
        if (url := await self._queues.find(queue)) is None:
            return []
        while empty < EMPTY_LOOKS and len(found) < MOST_DEAD:
            try:
                answer = await self._connection.short(
                    "receive_message",
                    QueueUrl=url,
                    MaxNumberOfMessages=TEN,
                    VisibilityTimeout=LOOK,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["SentTimestamp"],
                )
            except QueueMissing:
                self._queues.forget(queue)
                break
            raws = answer.get("Messages") or ()
            found |= {raw["MessageId"]: raw for raw in raws}
            empty = 0 if raws else empty + 1
        return list(found.values())

    def _letter(self, raw: _Raw) -> DeadMessage:
        """A dead letter. Its id begins with when it died, so that ids are in order and pages can go on behind one."""
        read = wire.read(raw, self.options.default_type)
        dead, sent = read.dead, int(raw.get("Attributes", {}).get("SentTimestamp", 0))
        at = sent if dead is None else dead.died_at
        unreadable = None if read.defect is None else msgspec.json.encode(wire.to_json(raw))
        return DeadMessage(
            id=f"{at:017.3f}-{raw['MessageId']}",
            message=read.message,
            reason="" if dead is None else dead.reason,
            error=None if dead is None else dead.error,
            meta=None if dead is None else dead.meta,
            group="" if dead is None else dead.group,
            owner="" if dead is None else dead.owner,
            died_at=at / 1000,
            raw=unreadable if dead is None or dead.raw is None else dead.raw.encode(),
        )
