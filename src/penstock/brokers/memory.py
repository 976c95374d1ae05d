"""The specification of a broker, running, in one process's memory.

``MemorySystem`` plays the server, ``MemoryBroker`` a connection to it. Nothing survives the process; everything else
is as ``penstock.broker`` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from ..bindings import PREFIX, Fate, Post, Posted, matching, outgoing
from ..broker import FOREVER, Capabilities, DeadMessage, Outgoing, Retention, Settlement, StreamStats, Subscription
from ..checks import history_free, sole_group
from ..clock import wait_until
from ..glob import glob
from ..message import Delivery, Message, Predecessor
from ..outcome import Ack, DeadLetter, Release, Retry
from .memory_system import Entry, Group, MemorySystem


class MemoryBroker:
    """A connection to a ``MemorySystem``. ``retention``: ``interest``, or ``workqueue`` for one group a stream."""

    capabilities = Capabilities(
        max_delay=FOREVER,
        ordered=True,
        fanout=True,
        idempotent=True,
        retentions=("interest", "workqueue"),
        shared=False,
        several=True,
        keyed=True,
    )
    url = "memory://"

    def __init__(
        self,
        system: MemorySystem | None = None,
        *,
        identity: str = "memory",
        retention: Retention = "interest",
        forked: bool = False,
    ) -> None:
        history_free("memory", retention)
        self.identity = identity
        self._retention: Retention = retention
        self._system = system or MemorySystem()
        self._forked = forked

    async def open(self) -> None: ...

    async def close(self) -> None:
        if self._forked:
            return
        for stream in self._system.streams.values():
            for group in stream.groups.values():
                for receipt in [r for r, entry in group.leased.items() if entry.owner == self.identity]:
                    self._release(group, group.leased.pop(receipt))

    def fork(self) -> MemoryBroker:
        return MemoryBroker(self._system, identity=self.identity, retention=self._retention, forked=True)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return [self._publish(item) for item in messages]

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[int]]:
        system, sources = self._system, self._sources(subscription)
        groups = [self._group(source) for source in sources]
        deadline = system.clock.monotonic() + wait
        while True:
            system.arrival.clear()
            due = [seconds for source in sources if (seconds := system.promote(source.source)) is not None]
            taken = self._taken(sources, groups, limit)
            left = deadline - system.clock.monotonic()
            if taken or left <= 0 or limit <= 0:
                return taken
            await wait_until(system.arrival, system.clock, min(left, *due) if due else left)

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[int]]:
        now, found = self._system.clock.time(), list[Delivery[int]]()
        for source in self._sources(subscription):
            group = self._group(source)
            lapsed = [
                receipt
                for receipt, entry in group.leased.items()
                if entry.deadline <= now and above < entry.count < (below or FOREVER)
            ]
            room = limit - len(found)
            found += [self._take_over(source, group, group.leased.pop(receipt), now) for receipt in lapsed[:room]]
        return found

    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        return [item.delivery for item in settlements if not self._settle(item)]

    async def extend(self, deliveries: Sequence[Delivery[int]], lease: float) -> Sequence[Delivery[int]]:
        lost: list[Delivery[int]] = []
        for delivery in deliveries:
            entry = self._leased(delivery).get(delivery.receipt)
            if entry is None:
                lost.append(delivery)
            else:
                entry.deadline = self._system.clock.time() + lease
        return lost

    async def sources(self) -> Sequence[str]:
        return sorted(self._system.streams)

    async def stats(self, source: str) -> StreamStats:
        return self._system.stats(source)

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        return self._system.kept(source)[:limit]

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        letters = self._system.streams[source].dead.values()
        return [letter for letter in letters if after is None or int(letter.id) > int(after)][:limit]

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        return self._system.requeue_dead(source, ids)

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        return sum(self._system.streams[source].dead.pop(i, None) is not None for i in ids)

    async def purge(self, source: str) -> int:
        return self._system.purge(source)

    async def pause(self, source: str) -> bool:
        was = source in self._system.paused
        self._system.paused.add(source)
        return not was

    async def resume(self, source: str) -> bool:
        was = source in self._system.paused
        self._system.paused.discard(source)
        return was

    async def paused(self) -> frozenset[str]:
        return frozenset(self._system.paused)

    def source_of(self, pattern: str) -> str:
        return PREFIX + pattern

    async def bind(self, pattern: str, group: str) -> str:
        glob(pattern)
        self._system.bound.setdefault(pattern, set()).add(group)
        return self.source_of(pattern)

    async def unbind(self, pattern: str, group: str) -> bool:
        return self._system.unbind(pattern, group, self.source_of(pattern))

    async def bindings(self) -> Mapping[str, frozenset[str]]:
        return {pattern: frozenset(groups) for pattern, groups in self._system.bound.items()}

    async def post(self, posts: Sequence[Post]) -> Sequence[Fate]:
        return [self._post(post) for post in posts]

    async def dead_sources(self) -> Sequence[str]:
        return [name for name in await self.sources() if name.startswith(PREFIX)]

    def _post(self, post: Post) -> Posted:
        channel, newest = post.message.type, int(self._system.new_id())
        matched = matching(self._system.bound, channel)
        sources = [self.source_of(pattern) for pattern in matched or ([channel] if post.keep else [])]
        ids = [self._publish(item) for item in outgoing(post, sources)]
        return Posted(ids=tuple(ident for ident in ids if int(ident) > newest), matched=len(matched))

    def _leased(self, delivery: Delivery[int]) -> dict[int, Entry]:
        """What is leased in the delivery's group, which may be gone."""
        group = self._system.streams[delivery.source].groups.get(delivery.group)
        return {} if group is None else group.leased

    def _group(self, subscription: Subscription) -> Group:
        if self._retention == "workqueue":
            others = self._system.streams[subscription.source].groups.keys() - {subscription.group}
            sole_group(subscription.source, subscription.group, others)
        return self._system.group(subscription)

    @staticmethod
    def _sources(subscription: Subscription) -> list[Subscription]:
        """Each of several queues by itself, in the order asked for."""
        return [replace(subscription, source=name) for name in subscription.queues] or [subscription]

    def _taken(self, sources: Sequence[Subscription], groups: Sequence[Group], limit: int) -> list[Delivery[int]]:
        found: list[Delivery[int]] = []
        for source, group in zip(sources, groups, strict=True):
            room = max(limit - len(found), 0)
            entries = self._system.take(source.source, source.group, room, keyed=source.keyed)
            found += [self._lease(source, group, entry) for entry in entries]
        return found

    def _publish(self, item: Outgoing) -> str:
        system, message = self._system, item.message
        ident, now = system.new_id(), system.clock.time()
        if item.once is not None and message.key is not None:
            slot = (item.destination, message.type, message.key)
            expires, first = system.once.get(slot, (0.0, ""))
            if expires > now:
                return first
            system.remember(slot, now + item.once, ident)
        system.add(item.destination, Entry(replace(message, id=ident)), item.delay)
        return ident

    def _take_over(self, subscription: Subscription, group: Group, entry: Entry, now: float) -> Delivery[int]:
        last = Predecessor(entry.owner, now - entry.deadline + subscription.lease)
        return replace(self._lease(subscription, group, entry), predecessor=last)

    def _lease(self, subscription: Subscription, group: Group, entry: Entry) -> Delivery[int]:
        receipt = next(self._system.serial)
        entry.owner, entry.count = self.identity, entry.count + 1
        entry.deadline = self._system.clock.time() + subscription.lease
        group.leased[receipt] = entry
        return Delivery(
            message=entry.message,
            source=subscription.source,
            group=subscription.group,
            receipt=receipt,
            count=entry.count,
        )

    def _settle(self, item: Settlement[int]) -> bool:
        delivery, system = item.delivery, self._system
        entry = self._leased(delivery).pop(delivery.receipt, None)
        if entry is None:
            return False
        group = system.streams[delivery.source].groups[delivery.group]
        if delivery.message.key is not None:
            system.arrival.set()  # the next of its key may come
        match item.outcome:
            case Ack():
                pass
            case Retry(delay=delay, counts=counts):
                attempt = delivery.attempt + 1 if counts else delivery.message.attempt
                again = replace(entry.message, attempt=attempt, enqueued_at=system.clock.time())
                system.add(delivery.source, Entry(again), delay or 0.0, delivery.group)
            case DeadLetter():
                letter = self._letter(delivery, item.outcome)
                system.streams[delivery.source].dead[letter.id] = letter
            case Release(delay=delay) if delay > 0:
                entry.count -= 1
                system.add(delivery.source, entry, delay, delivery.group)
            case Release():
                self._release(group, entry)
        return True

    def _release(self, group: Group, entry: Entry) -> None:
        entry.count -= 1
        group.ready.appendleft(entry)
        self._system.arrival.set()

    def _letter(self, delivery: Delivery[int], outcome: DeadLetter) -> DeadMessage:
        error = outcome.error
        return DeadMessage(
            id=self._system.new_id(),
            message=replace(delivery.message, attempt=delivery.attempt),
            reason=outcome.reason,
            error=None if error is None else f"{type(error).__name__}: {error}",
            meta=None if outcome.meta is UNSET else outcome.meta,
            group=delivery.group,
            owner=self.identity,
            died_at=self._system.clock.time(),
        )
