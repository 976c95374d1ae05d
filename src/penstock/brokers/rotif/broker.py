"""The driver: Redis Streams with Rotif's keys and fields, patterns that are bound, posts that are spread.

Everything about leases, groups, fencing and recovery is the Redis Streams driver's; what differs is on the wire
(``wire``), where retries and dead letters go (``settling``), and that a subscription reads two streams (``reading``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from ...bindings import Fate, Post
from ...broker import Outgoing, Promoted, Subscription
from ...checks import known
from ...clients.opening import redis_client
from ...clients.redis import Arg, RedisClient
from ...clock import SYSTEM_CLOCK, Clock
from ...errors import BrokerError, UnsupportedFeature
from ...glob import glob
from ..redis_streams.broker import MAX_BATCH, RedisStreamsBroker
from ..redis_streams.dialect import GLIDE_KIT, Dialect
from ..redis_streams.options import RedisStreamsOptions
from ..redis_streams.reading import GroupReader, Membership
from ..redis_streams.scripts import TRIM
from ..redis_streams.settling import Batch
from .inspection import RotifInspection
from .options import BOUND, DEAD, PATTERNS, READERS, SCHEDULED, STREAM, RotifKeys, RotifOptions, pattern_of, retries_of
from .publishing import Publisher
from .reading import RotifReader
from .scripts import BIND, PROMOTE, UNBIND
from .settling import RotifBatch

SCHEME = "rotif+"
ALIVE = 20.0  # seconds without being bound again after which a reader does not keep its group
_DEFAULTS = RotifOptions()


class RotifBroker(RotifInspection, RedisStreamsBroker):
    """One owner of leases on one server, which TypeScript services may share."""

    capabilities = replace(RedisStreamsBroker.capabilities, binary=False, keyed=False)
    options_type: ClassVar[type[RedisStreamsOptions]] = RotifOptions
    batch_type: ClassVar[type[Batch]] = RotifBatch

    def __init__(
        self,
        client: RedisClient,
        *,
        options: RedisStreamsOptions = _DEFAULTS,
        clock: Clock = SYSTEM_CLOCK,
        original: RedisStreamsBroker | None = None,
        dialect: Dialect = GLIDE_KIT,
    ) -> None:
        if client.clustered:
            raise UnsupportedFeature(
                "Rotif's keys cannot be spread over a cluster: one step touches the streams of many patterns; use one"
                " server, or sentinels (rotif+redis+sentinel://)"
            )
        super().__init__(client, options=options, clock=clock, original=original, dialect=dialect)
        own = options if isinstance(options, RotifOptions) else _DEFAULTS
        self._keys = keys = RotifKeys()
        self._first_kept = own.first_kept
        self._publisher = Publisher(client, keys, own.dedup_ttl)
        self._bound: set[tuple[str, str]] = set()  # where we count as a reader

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, timeout: float = 10.0, **options: Any) -> Self:
        """A broker at ``rotif+redis://…``; ``options`` are those of ``RotifOptions``. Raises ``InvalidURL``."""
        known("a Rotif broker", options, (*RotifOptions.__struct_fields__, "timeout"))
        client = redis_client(url.removeprefix(SCHEME), timeout=timeout)
        return cls(client, options=RotifOptions(**options), clock=clock)

    @property
    def url(self) -> str:
        return SCHEME + self._client.url

    # ------------------------------------------------------------------------------------------------------- the port

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return await self._publisher.publish(messages, self._clock.time())

    async def promote_due(self, destination: str, limit: int, *, delayed: str | None = None) -> Promoted:
        """As the port says, and of every other stream too: all have one set."""
        count, wait = await self._client.run(PROMOTE, [SCHEDULED, DEAD], [min(limit, MAX_BATCH)])
        return Promoted(count, None if wait < 0 else wait / 1000)

    async def close(self) -> None:
        with suppress(BrokerError):  # then we count for a little longer
            await self._forget(self._bound)
        await super().close()

    async def _forget(self, bound: Iterable[tuple[str, str]]) -> None:
        """Count no more as a reader of these patterns."""
        commands = [("ZREM", READERS + pattern, f"{group}\0{self.identity}") for pattern, group in bound]
        self._bound -= set(bound)
        await self._client.many(commands)

    async def depart(self, subscription: Subscription) -> None:
        await self._forget(self._bound & {(pattern_of(subscription.source), subscription.group)})
        await super().depart(subscription)
        await super().depart(replace(subscription, source=retries_of(subscription.source)))

    # ------------------------------------------------------------------------------------------------------- bindings

    def source_of(self, pattern: str) -> str:
        return STREAM + pattern

    async def bind(self, pattern: str, group: str) -> str:
        glob(pattern)
        keys: list[Arg] = [PATTERNS, BOUND + pattern, READERS + pattern]
        await self._client.run(BIND, keys, [pattern, group, self.identity, int(ALIVE * 1000)])
        self._bound.add((pattern, group))
        return self.source_of(pattern)

    async def unbind(self, pattern: str, group: str) -> bool:
        source = self.source_of(pattern)
        keys: list[Arg] = [PATTERNS, BOUND + pattern, READERS + pattern, source, retries_of(source)]
        return bool(await self._client.run(UNBIND, keys, [pattern, group, self.identity]))

    async def bindings(self) -> Mapping[str, frozenset[str]]:
        names = [
            name.decode("utf-8", "surrogateescape")
            for name in await self._client.call("ZRANGEBYSCORE", PATTERNS, 1, "+inf")
        ]
        found: dict[str, frozenset[str]] = {}
        for name, groups in zip(names, await self._client.many([("SMEMBERS", BOUND + n) for n in names]), strict=True):
            if isinstance(groups, Exception):
                raise groups
            found[name] = frozenset(group.decode() for group in groups)
        return found

    async def post(self, posts: Sequence[Post]) -> Sequence[Fate]:
        return await self._publisher.post(posts, self._clock.time())

    async def dead_sources(self) -> Sequence[str]:
        return [DEAD]

    # ------------------------------------------------------------------------------------------------------- plumbing

    async def trim(self, subscription: Subscription) -> int:
        removed = 0
        for each in (subscription, replace(subscription, source=retries_of(subscription.source))):
            if not self._first_kept:
                removed += await super().trim(each)
                continue
            silence = max(10 * each.lease, self.options.owner_gone_after)
            args: list[Arg] = [each.group, int(silence * 1000), self.identity, 0, "", "", self._first_kept]
            removed += int(await self._client.run(TRIM, [each.source], args))
        return removed

    def _make_reader(self, subscription: Subscription) -> GroupReader:
        beside = replace(subscription, source=retries_of(subscription.source))
        memberships = (self._membership(subscription), self._membership(beside))
        reader = RotifReader(self._client, self.identity, memberships, self.options, self._clock)
        self._readers[(beside.source, beside.group)] = reader.retries
        return reader

    def _membership(self, subscription: Subscription) -> Membership:
        return self._members.setdefault((subscription.source, subscription.group), Membership(subscription, self._keys))

    def _reader(self, subscription: Subscription) -> GroupReader:
        if subscription.keyed:
            raise UnsupportedFeature("Rotif's streams keep no order of keys across workers; use ordered=True")
        if self._closed:
            raise BrokerError("the broker is closed; open it again before reading")
        reader = self._readers.get((subscription.source, subscription.group))
        if reader is None:
            reader = self._make_reader(subscription)
            self._readers[(subscription.source, subscription.group)] = reader
        if reader.membership.subscription is not subscription:
            reader.membership.subscription = subscription
            if isinstance(reader, RotifReader):
                beside = reader.retries.membership
                beside.subscription = replace(subscription, source=beside.subscription.source)
        return reader
