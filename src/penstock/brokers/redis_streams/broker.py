"""The driver: the port of ``penstock.broker`` over streams, groups and one Lua library.

publish: XADD, many in one buffer; a sorted set for later; one script where a message is to be published once.
fetch: ``reading``. settle and extend: ``settling``. What is on the wire: ``wire``. What is for people: ``inspection``.

A lease is the idle time of an entry in its group: whoever renews resets it, ``reclaim`` takes what is idle for longer.
Fencing: an outcome that is applied within its lease needs no check of the owner (nobody else could take it over); one
that may be late, by our clock or by the server's, is checked, entry by entry, in the same script that applies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

from ...broker import FOREVER, Capabilities, Outgoing, Promoted, Settlement, Subscription
from ...checks import known, one_of
from ...clients.opening import redis_client
from ...clients.redis import Arg, RedisClient
from ...clients.redis_cluster import slot_of
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import BrokerError, ConfigurationError
from ...message import Delivery
from . import settling, wholes
from .dialect import GLIDE_KIT, Dialect
from .event_reading import EventReader
from .events import EventsDialect
from .inspection import RedisStreamsInspection
from .keyed import KeyedReader
from .options import Receipt, RedisStreamsOptions, new_identity
from .publishing import publish
from .reading import GroupReader, Membership
from .scripts import PROMOTE, TRIM
from .settling import MAX_IDS, Batch, Native, by_group
from .wire import handled_by

MAX_BATCH = 1000
_DEFAULTS = RedisStreamsOptions()


class RedisStreamsBroker(RedisStreamsInspection):
    """One owner of leases on one server."""

    capabilities = Capabilities(
        max_delay=FOREVER,
        stable_ids=False,
        ordered=True,
        fanout=True,
        persistent=True,
        binary=True,
        idempotent=True,
        retentions=("interest", "workqueue", "limits", "keep"),
        shared=True,
        keyed=True,
        max_batch=MAX_BATCH,
        max_body=512 * 1024 * 1024,
    )

    options_type: ClassVar[type[RedisStreamsOptions]] = RedisStreamsOptions
    batch_type: ClassVar[type[Batch]] = Batch

    def __init__(
        self,
        client: RedisClient,
        *,
        options: RedisStreamsOptions = _DEFAULTS,
        clock: Clock = SYSTEM_CLOCK,
        original: RedisStreamsBroker | None = None,
        dialect: Dialect = GLIDE_KIT,
    ) -> None:
        super().__init__(client, clock, dialect)
        self.options = options
        self.capabilities = dialect.capabilities(type(self).capabilities)
        self._original = original
        self.identity: str = original.identity if original else options.consumer or new_identity()
        self._members: dict[tuple[str, str], Membership] = original._members if original else {}  # noqa: SLF001 - our own class
        self._readers: dict[tuple[str, str], GroupReader] = {}
        self._native = Native()
        self._opened = self._closed = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
        timeout: float = 10.0,
        dialect: Dialect = GLIDE_KIT,
        **options: Any,
    ) -> Self:
        """A broker at ``url``; ``options`` are those of ``RedisStreamsOptions``. Raises ``InvalidURL``."""
        known("a Redis Streams broker", options, (*cls.options_type.__struct_fields__, "timeout"))
        client = redis_client(url, timeout=timeout)
        return cls(client, options=cls.options_type(**options), clock=clock, dialect=dialect)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, identity={self.identity!r})"

    # ----------------------------------------------------------------------------------------------------- lifecycle

    async def open(self) -> None:
        if not self._opened:
            await self._client.call("PING")
            self._opened, self._closed = True, False

    async def close(self) -> None:
        self._opened, self._closed = False, True
        readers, self._readers = self._readers, {}
        try:
            if self._original is None:
                for reader in readers.values():
                    with suppress(BrokerError):  # what cannot be given back lapses with its lease
                        await reader.leave()
                self._members.clear()
        finally:
            for reader in readers.values():
                await reader.close()
            await self._client.close()

    def fork(self) -> Self:
        return type(self)(
            self._client.fork(),
            options=self.options,
            clock=self._clock,
            original=self._original or self,
            dialect=self._dialect,
        )

    async def depart(self, subscription: Subscription) -> None:
        reader = self._readers.pop((subscription.source, subscription.group), None)
        if reader is not None:
            try:
                await reader.leave()
            finally:
                await reader.close()
                self._members.pop((subscription.source, subscription.group), None)

    def speaking(self, dialect: str, *, dead_letters: Mapping[str, str] | None = None) -> RedisStreamsBroker:
        """See ``penstock.dialect``. It has connections of its own, and an owner's name of its own."""
        one_of("dialect", dialect, ("events",))
        spoken = EventsDialect(dead_letters or {})
        return RedisStreamsBroker(self._client.fork(), options=self.options, clock=self._clock, dialect=spoken)

    # ------------------------------------------------------------------------------------------------------- the port

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return await publish(self._client, self._dialect, self._keys, messages, self._clock.time())

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Receipt]]:
        return await self._reader(subscription).fetch(min(limit, MAX_BATCH), wait)

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[Receipt]]:
        return await self._reader(subscription).reclaim(min(limit, MAX_BATCH), above, below)

    async def ghosts(self, subscription: Subscription) -> int:
        reader = self._reader(subscription)
        count, reader.ghosts = reader.ghosts, 0
        return count

    async def settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        if self._dialect.splits:
            return await wholes.settle(settlements, self._holds, self._settle)
        return await self._settle(settlements)

    async def extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        if self._dialect.splits:
            return await wholes.extend(deliveries, lambda entries: self._extend(entries, lease))
        return await self._extend(deliveries, lease)

    def _holds(self, delivery: Delivery[Receipt]) -> bool:
        """Whether the entry is held here, under this very lease, as far as we know."""
        member = self._members.get((delivery.source, delivery.group))
        return member is not None and member.held.get(delivery.message.id) is delivery.receipt

    async def _settle(self, settlements: Sequence[Settlement[Receipt]]) -> Sequence[Delivery[Receipt]]:
        clock, keep = self._clock, self.options.keeps
        lost: list[Delivery[Receipt]] = []
        for name, items in by_group(settlements, [item.delivery for item in settlements]).items():
            member = self._members.get(name)
            if member is None:
                lost += [item.delivery for item in items]
                continue
            for i in range(0, len(items), MAX_IDS):
                batch = self.batch_type(member, self.identity, clock.time(), self._dialect)
                lost += batch.fill(items[i : i + MAX_IDS])
                lost += await batch.apply(self._client, self._native, keep=keep, monotonic=clock.monotonic())
                if (batch.ready or batch.ghosts) and name in self._readers:
                    self._readers[name].look_soon(batch.ghosts)
        return lost

    async def _extend(self, deliveries: Sequence[Delivery[Receipt]], lease: float) -> Sequence[Delivery[Receipt]]:
        lost: list[Delivery[Receipt]] = []
        for name, part in by_group(deliveries, deliveries).items():
            member = self._members.get(name)
            if member is None:
                lost += part
            else:
                lost += await settling.extend(self._client, member, self.identity, part, lease, self._clock)
        return lost

    # -------------------------------------------------------------------------------------------------- capabilities

    async def promote_due(self, destination: str, limit: int, *, delayed: str | None = None) -> Promoted:
        """As the port says. Members that name another stream go there; those that cannot be read to the dead letters."""
        source, by = delayed or self._keys.delayed(destination), handled_by("", self.identity)
        dead = self._keys.dead(destination)
        limit = min(limit, MAX_BATCH)
        count, wait, elsewhere = await self._client.run(PROMOTE, [source, destination, dead], [limit, by])
        others: dict[bytes, list[bytes]] = {}
        for name, member in zip(elsewhere[::2], elsewhere[1::2], strict=True):
            others.setdefault(name, []).append(member)
        for name, members in others.items():
            if self._client.clustered and slot_of(name) != slot_of(source):
                await self._hand_over(source, name, members)
                continue
            moved, wait, _ = await self._client.run(PROMOTE, [source, name, dead], [limit, by, *members])
            count += moved
        return Promoted(count, None if wait < 0 else wait / 1000)

    async def _hand_over(self, source: str, name: bytes, members: Sequence[bytes]) -> None:
        """Put members into the set beside the stream that they name, which may be on another node.

        No script reaches both. Both steps can be done again, so whoever fails between them costs nothing.
        """
        beside = self._keys.delayed(name.decode("utf-8", "surrogateescape"))
        for member in members:
            await self._client.call("ZADD", beside, 0, member)
            await self._client.call("ZREM", source, member)

    async def trim(self, subscription: Subscription) -> int:
        options = self.options
        silence = max(10 * subscription.lease, options.owner_gone_after)
        longest: Arg = "" if options.max_length is None else options.max_length
        oldest: Arg = "" if options.max_age is None else int(options.max_age * 1000)
        keep = int(options.retention == "keep")
        args: list[Arg] = [subscription.group, int(silence * 1000), self.identity, keep, longest, oldest]
        removed = int(await self._client.run(TRIM, [subscription.source], args))
        if subscription.keyed:
            reader = self._reader(subscription)
            reader.ghosts += await self._mend(subscription.source, subscription.group, reader.membership.keys[1])
        return removed

    # ------------------------------------------------------------------------------------------------------- plumbing

    def _reader(self, subscription: Subscription) -> GroupReader:
        if self._closed:
            raise BrokerError("the broker is closed; open it again before reading")
        name = (subscription.source, subscription.group)
        reader = self._readers.get(name)
        if reader is None:
            member = self._members.get(name)
            if member is None:
                member = self._members[name] = Membership(subscription, self._keys)
            kind = KeyedReader if subscription.keyed else EventReader if self._dialect.splits else GroupReader
            reader = kind(self._client, self.identity, member, self.options, self._clock)
            self._readers[name] = reader
        if subscription.keyed is not reader.keyed:
            raise ConfigurationError(
                f"group {subscription.group!r} of {subscription.source!r} is read both keyed and not: let all its"
                " consumers ask for order everywhere, or none"
            )
        if reader.membership.subscription is not subscription:
            reader.membership.subscription = subscription
        return reader
