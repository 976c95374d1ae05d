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
from .fanout import Topics
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
    _topics: Topics | None

    async def sources(self) -> Sequence[str]:
        sources = map(self._names.source, await self._listed(self.options.prefix))
        return sorted({source for source in sources if source is not None})

    async def stats(self, source: str) -> StreamStats:
        queues = await self._groups(source)
        dead, *own = await asyncio.gather(self._sizes(self._names.dead(source)), *map(self._sizes, queues.values()))
        groups = {name: sizes for name, sizes in zip(queues, own, strict=True) if sizes is not None}
        return StreamStats(
            source=source,
            size=max((waiting + leased for waiting, leased, _ in groups.values()), default=0),
            delayed=max((delayed for _, _, delayed in groups.values()), default=0),
            dead=sum(dead or ()),
            oldest_age=None,
            groups=tuple(
                GroupStats(name=name, leased=leased, lag=waiting, owners=0)
                for name, (waiting, leased, _) in groups.items()
            ),
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
        """Each is written to its queue (its topic) and deleted then: who dies between the two leaves it in both."""
        dead, queue = self._names.dead(source), self._names.queue(source)
        chosen = await self._chosen(dead, ids)
        found = [raw for raw in chosen if self._letter(raw).raw is None]
        entries = list[dict[str, Any]]()
        for raw in found:
            message = msgspec.structs.replace(self._letter(raw).message, attempt=0, enqueued_at=self._clock.time())
            entry = wire.entry(message)
            entries.append(addressed(entry, message) if queue.endswith(FIFO) else entry)
        topics = self._topics
        fates = await (self._batches.send(queue, entries) if topics is None else topics.send(source, entries))
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
        found = [(queue, await self._sizes(queue)) for queue in (await self._groups(source)).values()]
        queues = {queue: sizes for queue, sizes in found if sizes is not None}
        if leased := sum(sizes[1] for sizes in queues.values()):
            raise UnsupportedFeature(
                f"{leased} messages of {source!r} are being worked on, and SQS would purge them as well: stop its"
                " workers first (`penstock stats` shows when nothing is leased any more)"
            )
        for queue in queues:
            await self._queues.on(queue, lambda url: self._connection.short("purge_queue", QueueUrl=url))
        return max((waiting + delayed for waiting, _, delayed in queues.values()), default=0)

    async def _listed(self, prefix: str) -> list[str]:
        """Names of queues that begin so."""
        found, token = list[str](), dict[str, str]()
        narrowed = {"QueueNamePrefix": prefix} if prefix else {}
        while True:
            answer = await self._connection.short("list_queues", MaxResults=1000, **narrowed, **token)
            found += [url.rpartition("/")[2] for url in answer.get("QueueUrls") or ()]
            if not (following := answer.get("NextToken")):
                return found
            token = {"NextToken": following}

    async def _groups(self, source: str) -> dict[str, str]:
        """The queues of a source, by group."""
        if self._topics is None:
            return {"default": self._names.queue(source)}
        prefix = self._names.queue(source, "")
        return {name.removeprefix(prefix).replace("--", ":"): name for name in await self._listed(prefix)}

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
