"""The server that the memory broker connects to: streams, groups, leases and dead letters as plain Python values.

Each message is kept once for every group that has not finished with it, and in the backlog while a stream has no
group at all.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from ..broker import DeadMessage, GroupStats, StreamStats, Subscription
from ..clock import SYSTEM_CLOCK, Clock
from ..message import Message

FEW = 1000  # keys of what is published once that are never swept


@dataclass(slots=True)
class Entry:
    """A message as one group sees it: handed over ``count`` times, at last to ``owner`` until ``deadline``."""

    message: Message
    count: int = 0
    owner: str = ""
    deadline: float = 0.0


Later: TypeAlias = tuple[float, int, str | None, Entry]  # due, serial, group (None: all), entry


@dataclass(slots=True)
class Group:
    """What is waiting and what is leased (by receipt)."""

    ready: deque[Entry] = field(default_factory=deque[Entry])
    leased: dict[int, Entry] = field(default_factory=dict[int, Entry])


@dataclass(slots=True)
class Stream:
    """Groups by name, the messages nobody has subscribed to yet, and what comes later."""

    groups: dict[str, Group] = field(default_factory=dict[str, Group])
    backlog: deque[Entry] = field(default_factory=deque[Entry])
    delayed: list[Later] = field(default_factory=list[Later])
    dead: dict[str, DeadMessage] = field(default_factory=dict[str, DeadMessage])


class MemorySystem:
    """The shared state that brokers in one process connect to."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock = clock
        self.streams: defaultdict[str, Stream] = defaultdict(Stream)
        self.once: dict[tuple[str, str, str], tuple[float, str]] = {}
        self._sweep_at = FEW
        self.paused: set[str] = set()
        self.bound: dict[str, set[str]] = {}  # pattern → groups
        self.serial = itertools.count(1)
        self.arrival = asyncio.Event()

    def remember(self, slot: tuple[str, str, str], expires: float, ident: str) -> None:
        """Note what is published once, and forget now and then what has expired."""
        self.once[slot] = (expires, ident)
        if len(self.once) >= self._sweep_at:
            now = self.clock.time()
            self.once = {each: known for each, known in self.once.items() if known[0] > now}
            self._sweep_at = max(2 * len(self.once), FEW)

    def add(self, name: str, entry: Entry, delay: float = 0.0, group: str | None = None) -> None:
        """Put an entry before one group, or before all, now or later."""
        stream = self.streams[name]
        if delay > 0:
            due = self.clock.time() + delay
            heapq.heappush(stream.delayed, (due, next(self.serial), group, entry))
        elif group is not None:
            stream.groups[group].ready.append(entry)
        elif stream.groups:
            for each in stream.groups.values():
                each.ready.append(Entry(entry.message, entry.count))
        else:
            stream.backlog.append(entry)
        self.arrival.set()

    def group(self, subscription: Subscription) -> Group:
        """The group, made on first use, with every message that is still kept for others or for nobody yet."""
        stream = self.streams[subscription.source]
        if subscription.group not in stream.groups:
            group = stream.groups[subscription.group] = Group()
            if subscription.start == "first":
                group.ready.extend(Entry(message) for message in self.kept(subscription.source))
            stream.backlog.clear()
        return stream.groups[subscription.group]

    def take(self, name: str, group: str, limit: int, *, keyed: bool) -> list[Entry]:
        """The next entries before a group. ``keyed``: of each key the first, if none of it is leased or comes later."""
        stream = self.streams[name]
        mine = stream.groups[group]
        if not keyed:
            return [mine.ready.popleft() for _ in range(min(limit, len(mine.ready)))]
        later = [entry for _, _, whose, entry in stream.delayed if whose in {None, group}]
        first: dict[str | None, int] = {}
        for entry in (*mine.ready, *later):
            key, number = entry.message.key, int(entry.message.id)
            first[key] = min(first.get(key, number), number)
        busy = {entry.message.key for entry in mine.leased.values()}
        taken = [
            entry
            for entry in mine.ready
            if (key := entry.message.key) is None or (key not in busy and first[key] == int(entry.message.id))
        ][:limit]
        for entry in taken:
            mine.ready.remove(entry)
        return taken

    def promote(self, name: str) -> float | None:
        """Move what is due; return the seconds until the next, if there is one."""
        delayed, now = self.streams[name].delayed, self.clock.time()
        while delayed and delayed[0][0] <= now:
            _, _, group, entry = heapq.heappop(delayed)
            self.add(name, entry, group=group)
        return delayed[0][0] - now if delayed else None

    def new_id(self) -> str:
        return str(next(self.serial))

    def kept(self, name: str) -> list[Message]:
        """Every message waiting or leased, once, oldest first."""
        stream = self.streams[name]
        entries = [*stream.backlog]
        for group in stream.groups.values():
            entries += [*group.leased.values(), *group.ready]
        return sorted({e.message.id: e.message for e in entries}.values(), key=lambda message: int(message.id))

    def stats(self, name: str) -> StreamStats:
        """Sizes of one stream."""
        stream, kept = self.streams[name], self.kept(name)
        ages = [self.clock.time() - m.enqueued_at for m in kept if m.enqueued_at is not None]
        return StreamStats(
            source=name,
            size=len(kept),
            delayed=len(stream.delayed),
            dead=len(stream.dead),
            oldest_age=max(ages, default=None),
            groups=tuple(
                GroupStats(
                    name=group_name,
                    leased=len(group.leased),
                    lag=len(group.ready),
                    owners=len({entry.owner for entry in group.leased.values()}),
                )
                for group_name, group in stream.groups.items()
            ),
        )

    def requeue_dead(self, name: str, ids: Sequence[str]) -> int:
        """Make dead letters fresh messages for every group."""
        dead, now = self.streams[name].dead, self.clock.time()
        found = [dead.pop(i) for i in ids if i in dead and dead[i].raw is None]
        for letter in found:
            self.add(name, Entry(replace(letter.message, id=self.new_id(), attempt=0, enqueued_at=now)))
        return len(found)

    def purge(self, name: str) -> int:
        """Drop what waits, now or later; count messages."""
        stream = self.streams[name]
        waiting = [*stream.backlog, *(item[3] for item in stream.delayed)]
        for group in stream.groups.values():
            waiting += group.ready
            group.ready.clear()
        stream.backlog.clear()
        stream.delayed.clear()
        return len({entry.message.id for entry in waiting})

    def unbind(self, pattern: str, group: str, source: str) -> bool:
        """Forget a binding, and its group with what it has not read."""
        groups = self.bound.get(pattern, set())
        if group not in groups:
            return False
        groups.remove(group)
        self.streams[source].groups.pop(group, None)
        if not groups:
            del self.bound[pattern]
        return True
