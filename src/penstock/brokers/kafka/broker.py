"""A broker on Kafka: a producer, a place in each subscription's consumer group, and the outcomes between them.

What blocks in the client library runs on threads; what a fork on another thread settles or extends is in the same
books, under a lock. ``membership`` draws how a group is kept, ``book`` how an offset becomes an outcome for each
message, ``settling`` what is written for which outcome.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from ...broker import FOREVER, Capabilities, Outgoing, Settlement, Subscription
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import ConnectionFailed
from ...message import Delivery
from ...threads import Threads, run_in
from .book import Book, Entry, Owner
from .inspecting import Inspecting
from .inspection import Inspection
from .librdkafka import raised
from .membership import Membership
from .options import KafkaOptions, dead_topic, legal, topic_of
from .producing import Writing
from .publishing import Publishing
from .settling import Receipt, Settled, carry_out, onward, settle
from .topics import Topics

T = TypeVar("T")

LOOK = 0.05  # a fetch that may wait for no longer than this asks the server where the partitions end
FIRST = 5.0  # seconds that the first fetch may take to get its partitions
STEP = 0.5  # seconds after which a fetch that waits looks whether the server is still there


@dataclass(slots=True)
class _Shared:
    """What a broker and its forks have in common."""

    topics: Topics
    threads: Threads
    publishing: Publishing
    memberships: dict[tuple[str, str], Membership] = field(default_factory=dict[tuple[str, str], Membership])


class KafkaBroker(Inspecting):
    """One owner on a cluster. ``KafkaBroker.from_url("kafka://localhost:9092")`` is the usual way to make one."""

    def __init__(self, options: KafkaOptions, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.identity = identity or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.capabilities = Capabilities(
            max_delay=FOREVER,
            ordered=options.partitions == 1,
            fanout=True,
            persistent=True,
            keyed=True,
            own_leases=False,
            retentions=(),
            max_body=options.max_body,
        )
        self._options, self._clock = options, clock
        topics, threads = Topics(options), Threads(4, "penstock-kafka")
        self._shared = _Shared(topics, threads, Publishing(options, topics, threads))
        self._look = Inspection(options, self._shared.topics)
        self._strays: set[asyncio.Task[Any]] = set()
        self._forked = False

    @classmethod
    def from_url(
        cls, url: str, *, identity: str | None = None, clock: Clock = SYSTEM_CLOCK, **options: Any
    ) -> KafkaBroker:
        """Understand an address; ``options`` are those of ``KafkaOptions``. Raises ``InvalidURL``."""
        return cls(KafkaOptions.from_url(url, **options), identity=identity, clock=clock)

    @property
    def url(self) -> str:
        return self._options.url

    async def open(self) -> None:
        if not self._shared.publishing.started:
            await self._blocking(self._shared.topics.check)
            self._shared.publishing.producing()

    async def close(self) -> None:
        if self._strays:
            await asyncio.wait(self._strays)
        shared = self._shared
        if self._forked:
            return
        members = list(shared.memberships.values())
        shared.memberships.clear()
        await asyncio.gather(*(self._blocking(member.leave) for member in members))
        await shared.publishing.close()

    def fork(self) -> KafkaBroker:
        """The same books and the same producer for another thread: the client library may be called from any."""
        other = KafkaBroker(self._options, identity=self.identity, clock=self._clock)
        other._shared, other._look, other._forked = self._shared, self._look, True
        return other

    # ------------------------------------------------------------------------------------------------------ publishing

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return await self._shared.publishing.publish(messages, self._clock.time()) if messages else []

    # -------------------------------------------------------------------------------------------------------- fetching

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        deadline = time.monotonic() + wait
        member = await self._member(subscription)
        if limit <= 0:
            return []
        if not member.assigned:
            await self._until(member, max(deadline, time.monotonic() + FIRST), lambda: member.assigned)
            if not member.assigned:  # waiting in vain must not look like an empty stream
                await self._blocking(partial(member.probe, self._shared.topics))
        ends = await self._ends(member) if wait <= LOOK and not member.ready() else None
        if ends is not None:  # what the server has now is there, or will be in a moment
            deadline = max(deadline, time.monotonic() + FIRST)
        limit = min(limit, self.capabilities.max_batch)
        while True:
            await self._move_on(member)
            with member.lock:
                taken = member.take(limit, self._clock.time())
            if taken:
                return await self._handed(member, subscription, taken)
            if time.monotonic() >= deadline or (ends is not None and member.reached(ends)):
                break
            await self._pause(member, deadline, subscription)
        return []

    async def _handed(
        self, member: Membership, subscription: Subscription, taken: list[Entry]
    ) -> Sequence[Delivery[Receipt]]:
        """Deliveries, once the server knows that they were handed out: else a crash would not count."""
        try:
            if not all(entry.book.told(entry) for entry in taken):
                await self._durable({entry.book: entry.book.version for entry in taken})
        except BaseException:
            with member.lock:
                for entry in reversed(taken):
                    if entry.book.holds(entry):
                        entry.book.give_back(entry)
            raise
        return [
            Delivery(
                message=entry.message,
                source=subscription.source,
                group=subscription.group,
                receipt=entry,
                count=entry.count,
                defect=entry.defect,
            )
            for entry in taken
            if entry.book.alive
        ]

    async def _durable(self, books: dict[Book, int]) -> None:
        """Wait until the server knows. Raises ``ConnectionFailed`` when it does not answer in time."""
        owners: dict[Owner, dict[Book, int]] = {}
        for book, version in books.items():
            owners.setdefault(book.owner, {})[book] = version
        waiting = [owner.committed(wanted) for owner, wanted in owners.items()]
        try:
            async with asyncio.timeout(self._options.timeout):
                for future in waiting:
                    await future
        except TimeoutError:
            refusals = [str(owner.refusal) for owner in owners if owner.refusal is not None]
            why = f": {refusals[0]}" if refusals else ""
            raise ConnectionFailed(
                f"{self.url} did not take a commit within {self._options.timeout:g} s{why}"
            ) from None

    async def _pause(self, member: Membership, deadline: float, subscription: Subscription) -> None:
        """Until something comes or is due, or it is time to look whether the server is still there."""
        if member.failure is not None or member.silent_for > max(self._options.timeout / 2, STEP):
            await self._blocking(partial(member.probe, self._shared.topics))
        if member.missing:
            member.missing = False
            self._shared.topics.forget(member.topics)
            await self._shared.publishing.ensure(set(member.topics))
        until = min(deadline, time.monotonic() + STEP)
        due = member.next_due()
        if due is not None:
            until = min(until, time.monotonic() + max(due - self._clock.time(), 0.001))
        await self._until(member, until, member.ready)

    async def _until(self, member: Membership, deadline: float, there: Callable[[], bool]) -> None:
        """Wait for what the poller has to tell."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with member.lock:
            if there():
                return
            bell = member.listen(partial(_ring, loop, event))
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with member.lock:
                member.unlisten(bell)

    async def _ends(self, member: Membership) -> dict[tuple[str, int], int]:
        return await self._blocking(partial(self._shared.topics.ends, member.topics))

    async def _move_on(self, member: Membership) -> None:
        """Move what holds up others in a delaying topic that has more than can be kept in memory."""
        with member.lock:
            stale = [entry for book in member.books.values() for entry in book.stale(self._clock.time())]
            copies = onward(stale, self._clock.time())
        if copies:
            result = Settled([], {}, [], [])
            await self._sheltered(carry_out(copies, self._write, result))
            await self._durable(result.done)

    async def _member(self, subscription: Subscription) -> Membership:
        key = (subscription.source, subscription.group)
        member = self._shared.memberships.get(key)
        if member is not None and not member.ended:
            return member
        topic = topic_of(subscription.source)
        legal("a group", subscription.group)
        member = Membership(self._options, subscription, topic, self.identity)
        try:
            await self._shared.publishing.ensure({*member.topics, dead_topic(topic)})
            await self._blocking(partial(member.join, self._shared.topics.ends))
        except BaseException as error:
            await self._blocking(member.leave)
            if isinstance(error, KafkaException):
                raise raised(self.url, error) from error
            raise
        self._shared.memberships[key] = member
        return member

    # -------------------------------------------------------------------------------------------------------- settling

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        return await self._sheltered(self._settle(settlements)) if settlements else []

    async def _settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        result = await settle(settlements, self._write, self.identity, self._clock.time())
        try:
            await self._durable(result.done)
        except ConnectionFailed:
            for _, entry in result.crossed:
                entry.unsure = True
            raise
        lost = result.lost + [
            delivery
            for delivery, entry in result.crossed
            if not entry.book.alive and entry.book.durable < result.done[entry.book]
        ]
        if result.refused:
            raise raised(self.url, result.refused[0])
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        """Ownership is the group's matter, and its threads see to it: this only tells what was lost."""
        return [each for each in deliveries if not each.receipt.book.holds(each.receipt)]

    # ---------------------------------------------------------------------------------------------------------- inside

    async def _write(self, records: Sequence[Writing]) -> list[Any]:
        return await self._shared.publishing.write(records)

    def _ours(self, topic: str) -> set[tuple[str, tuple[str, int]]]:
        """Groups and partitions of this topic's that are in our books."""
        members = [each for each in self._shared.memberships.values() if each.topic == topic]
        return {(member.subscription.group, place) for member in members for place in list(member.books)}

    async def _forget_waiting(self, topic: str) -> None:
        for member in self._shared.memberships.values():
            if member.topic == topic:
                await self._durable(member.forget_waiting())

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await run_in(self._shared.threads, call)

    async def _sheltered(self, work: Coroutine[Any, Any, T]) -> T:
        """Go through with it, whoever is cancelled meanwhile; ``close`` waits for it."""
        task = asyncio.ensure_future(work)
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)
        return await asyncio.shield(task)


def _ring(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:  # the loop is gone, and whoever waited with it
        return
