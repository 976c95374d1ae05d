"""Looking at queues and mending them.

Sizes come from the server. Dead letters are looked at by taking and giving back: their order stays, and nothing counts
there. What a group has not taken yet is not looked at: RabbitMQ counts each look as a handing-over, and a message that
was looked at often enough would be taken for poison.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pamqp import commands as spec

from ...broker import DeadMessage, GroupStats, StreamStats
from ...errors import UnsupportedFeature
from ...message import Message
from . import management, names, wire
from .channel import Parcel
from .core import Core
from .holdings import Held, ack
from .link import Missing
from .options import RabbitmqAddress
from .taking import take

AGAIN = 50  # looks, a hundredth of a second apart, whether what was looked at is back in its place


async def sources(core: Core, address: RabbitmqAddress) -> list[str]:
    """By the names of their queues."""
    found = await management.queues(address, core.options, "list queues")
    return sorted({name.partition("@")[0] for name in found if "@" in name})


async def stats(core: Core, address: RabbitmqAddress, source: str) -> StreamStats:
    """Sizes. Without the management API they are those of this worker's own groups, leases and delays."""
    found = await _known(core, address)
    await _answerable(core, source, "tell how much waits")
    ours = _mine(core, source)
    groups = sorted({*_groups(found, source), *ours})
    rows: list[GroupStats] = []
    for group in groups:
        queue = names.group_queue(source, group)
        row = found.get(queue, {})
        leased = max(int(row.get("messages_unacknowledged", 0) or 0) + _parked(found, queue), ours.get(group, 0))
        rows.append(GroupStats(name=group, leased=leased, lag=await _size(core, queue), owners=_owners(row, leased)))
    backlog = await _size(core, names.beside(source, "backlog"))
    size = max((row.leased + (row.lag or 0) for row in rows), default=0) + backlog
    delayed = await _size(core, names.beside(source, "due"))
    for queue in await _steps(core, found, source):
        delayed += await _size(core, queue)
    dead = await _size(core, names.beside(source, "dead"))
    return StreamStats(source=source, size=size, delayed=delayed, dead=dead, oldest_age=None, groups=tuple(rows))


async def peek(core: Core, address: RabbitmqAddress, source: str, limit: int) -> list[Message]:
    """What waits for a first group."""
    found = await _known(core, address)
    if not await _size(core, names.beside(source, "backlog")):
        for group in {*_groups(found, source), *_mine(core, source)}:
            if await _size(core, names.group_queue(source, group)):
                raise UnsupportedFeature(
                    f"looking at what waits for group {group!r} of {source!r} would count as handing it over, since"
                    " RabbitMQ counts each look; stats and dead letters can be looked at"
                )
        return []
    backlog: deque[Held] = deque()
    async with _Look(core, names.beside(source, "backlog"), limit, backlog):
        return [wire.read(held.properties, held.body, held.ident)[0] for held in backlog]


async def dead(core: Core, source: str, limit: int, after: str | None) -> list[DeadMessage]:
    """A page of dead letters. The pages before it are taken as well, and given back."""
    queue = names.beside(source, "dead")
    found: deque[Held] = deque()
    size = await _size(core, queue)
    if not size:
        return []
    async with _Look(core, queue, limit if after is None else size, found):
        letters = [_letter(held) for held in found]
    if after is not None:
        ids = [letter.id for letter in letters]
        letters = letters[ids.index(after) + 1 :] if after in ids else []
    return letters[:limit]


async def requeue_dead(core: Core, source: str, ids: Sequence[str]) -> int:
    """Publish them afresh, then ack the letter."""

    async def again(held: Held) -> bool:
        letter = _letter(held)
        if letter.raw is not None:
            return False
        found = wire.fresh(letter, letter.message.id or core.publisher.new_id(), core.clock.time())
        if core.options.exchange_type == "headers":
            found.headers = {**(found.headers or {}), "penstock-source": source}
        parcel = Parcel(core.options.exchange, source, found, held.body)
        await core.topology.backlog(source)
        (fate,) = await core.publisher.put([parcel])
        if fate is not None:
            raise fate
        return True

    return await _each(core, source, ids, again)


async def purge_dead(core: Core, source: str, ids: Sequence[str]) -> int:
    """Delete them."""

    async def gone(_: Held) -> bool:
        return True

    return await _each(core, source, ids, gone)


async def purge(core: Core, address: RabbitmqAddress, source: str) -> int:
    """Empty the queues: of groups, of the ladder, of what waits for a group."""
    found = await _known(core, address)
    await _answerable(core, source, "purge")
    groups = {*_groups(found, source), *_mine(core, source)}
    counts = [await _purged(core, names.group_queue(source, group)) for group in groups]
    others = [names.beside(source, "backlog"), names.beside(source, "due"), *await _steps(core, found, source)]
    return max(counts, default=0) + sum([await _purged(core, queue) for queue in others])


class _Look:
    """Messages taken while the block runs, and given back in their order unless acked."""

    def __init__(self, core: Core, queue: str, count: int, found: deque[Held]) -> None:
        self._core, self._queue, self._count, self._found = core, queue, count, found

    async def __aenter__(self) -> None:
        self._channel = await take(self._core, self._queue, self._count, self._found)

    async def __aexit__(self, *_exc: object) -> None:
        channel, back = self._channel, len(self._channel.unsettled)
        if back and channel.alive:
            channel.write(spec.Basic.Nack(delivery_tag=max(channel.unsettled), multiple=True, requeue=True))
        await asyncio.gather(asyncio.wait_for(channel.close(), 2.0), return_exceptions=True)
        for _turn in range(AGAIN):  # nothing says that they are back but that they are there
            if await _size(self._core, self._queue) >= back:
                return
            await asyncio.sleep(0.01)


async def _each(core: Core, source: str, ids: Sequence[str], work: Callable[[Held], Any]) -> int:
    queue, wanted, count = names.beside(source, "dead"), set(ids), 0
    size = await _size(core, queue)
    if not size:
        return 0
    found: deque[Held] = deque()
    async with _Look(core, queue, size, found):
        for held in found:
            ident = _letter(held).id
            if ident in wanted and await work(held):
                wanted.discard(ident)
                ack([held])
                count += 1
    return count


def _letter(held: Held) -> DeadMessage:
    return wire.letter_of(held.properties, held.body, f"tag-{held.tag}")


async def _known(core: Core, address: RabbitmqAddress) -> dict[str, dict[str, Any]]:
    if core.options.management is None:
        return {}
    return await management.queues(address, core.options, "list queues")


async def _answerable(core: Core, source: str, what: str) -> None:
    """Whoever reads nothing of this stream and has no management API knows of no group: zero would be a lie."""
    if core.options.management is None and not _mine(core, source):
        try:
            await core.topology.waiting(names.beside(source, "backlog"))
        except Missing:
            return  # no such stream
        raise UnsupportedFeature(
            f"AMQP cannot {what} of {source!r} to a process that does not read it, since it lists no queues: name the"
            " management API too, open_broker(url, management='http://user:password@host:15672')"
        )


def _groups(found: dict[str, dict[str, Any]], source: str) -> list[str]:
    names_ = (name.partition("@") for name in found)
    return [group for name, at, group in names_ if name == source and at and "@@" not in group and group[:1] != "@"]


def _parked(found: dict[str, dict[str, Any]], queue: str) -> int:
    rows = [row for name, row in found.items() if name.startswith(f"{queue}@@held-")]
    return sum(int(row.get("messages_unacknowledged", 0) or 0) for row in rows)


def _owners(row: dict[str, Any], leased: int) -> int:
    return max(int(row.get("consumers", 0) or 0), int(leased > 0))


def _mine(core: Core, source: str) -> dict[str, int]:
    """Groups of this process and how much it holds for each."""
    groups = {reader.group: 0 for reader in core.readers() if source in reader.lanes}
    for held in core.holdings.table.values():
        if held.source == source:
            groups[held.group] = groups.get(held.group, 0) + 1
    return groups


async def _steps(core: Core, found: dict[str, dict[str, Any]], source: str) -> list[str]:
    prefix = names.beside(source, "delay-")
    return sorted({n for n in found if n.startswith(prefix)} | core.topology.steps(source))


async def _size(core: Core, queue: str) -> int:
    try:
        return await core.topology.waiting(queue)
    except Missing:
        return 0


async def _purged(core: Core, queue: str) -> int:
    try:
        answer = await core.topology.call(spec.Queue.Purge(queue=queue), f"queue {queue!r}")
    except Missing:
        return 0
    return int(answer.message_count)
