"""Redis Pub/Sub as a broker: whoever listens now gets it, at most once; nothing is kept.

A source is a pattern of Redis' own kind, a destination the plain name of a channel. What is published is Rotif's JSON
object ``{"payload": …, "timestamp": ms}``. Each subscription has a connection of its own. There are no leases: what a
handler does not finish, or fails with, is logged and gone.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from ..broker import Capabilities, Outgoing, Settlement, Subscription
from ..checks import known
from ..clients.opening import redis_client
from ..clients.redis import RedisClient
from ..clients.redis_listening import Listener
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import UnsupportedFeature
from ..message import Delivery, Message
from ..outcome import Ack, DeadLetter

logger = logging.getLogger("penstock")

SCHEME = "pubsub+"


class _Body(msgspec.Struct):
    payload: msgspec.Raw
    timestamp: float | None = None


_decode = msgspec.json.Decoder(_Body).decode


class RedisPubSubBroker:
    """``RedisPubSubBroker.from_url("redis://…")``."""

    capabilities = Capabilities(
        ordered=True,
        fanout=True,
        binary=False,
        retentions=(),
        own_leases=False,
        counted=False,
        backfill=False,
        max_body=512 * 1024 * 1024,
    )

    def __init__(self, client: RedisClient, *, clock: Clock = SYSTEM_CLOCK, identity: str | None = None) -> None:
        self._client, self._clock = client, clock
        self.identity = identity or f"pubsub:{uuid.uuid4()}"
        self._listeners: dict[tuple[str, str], Listener] = {}

    @classmethod
    def from_url(
        cls, url: str, *, timeout: float = 10.0, clock: Clock = SYSTEM_CLOCK, **options: Any
    ) -> RedisPubSubBroker:
        """A broker at a Redis address. Raises ``InvalidURL``."""
        known("a Pub/Sub broker", options, ("timeout",))
        return cls(redis_client(url.removeprefix(SCHEME), timeout=timeout), clock=clock)

    @property
    def url(self) -> str:
        return SCHEME + self._client.url

    async def open(self) -> None: ...

    async def close(self) -> None:
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            await listener.close()
        await self._client.close()

    def fork(self) -> RedisPubSubBroker:
        return RedisPubSubBroker(self._client.fork(), clock=self._clock, identity=self.identity)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        if any(item.delay > 0 or item.once is not None for item in messages):
            raise UnsupportedFeature("Pub/Sub keeps nothing: a message can be neither delayed nor published only once")
        commands = [("PUBLISH", item.destination, self._body(item.message)) for item in messages]
        for reply in await self._client.many(commands):
            if isinstance(reply, Exception):
                raise reply
        return [str(uuid.uuid4()) for _ in messages]

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[None]]:
        name = (subscription.source, subscription.group)
        listener = self._listeners.get(name)
        if listener is None:
            listener = self._listeners[name] = Listener(self._client, subscription.source)
        if limit <= 0:
            await listener.connect()
            return []
        heard = await listener.next(limit, wait)
        return [self._delivery(subscription, channel, body) for channel, body in heard]

    async def settle(self, settlements: Sequence[Settlement[None]]) -> Sequence[Delivery[None]]:
        for item in settlements:
            outcome, message = item.outcome, item.delivery.message
            if not isinstance(outcome, Ack):
                error = outcome.error if isinstance(outcome, DeadLetter) else None
                text = "a message of channel %s is gone, Pub/Sub keeps none: %s"
                logger.error(text, message.type, outcome, exc_info=error)
        return []

    async def extend(self, deliveries: Sequence[Delivery[None]], lease: float) -> Sequence[Delivery[None]]:
        return []

    async def depart(self, subscription: Subscription) -> None:
        listener = self._listeners.pop((subscription.source, subscription.group), None)
        if listener is not None:
            await listener.close()

    def _body(self, message: Message) -> bytes:
        at = self._clock.time() if message.enqueued_at is None else message.enqueued_at
        return b'{"payload":%b,"timestamp":%d}' % (message.body, round(at * 1000))

    def _delivery(self, subscription: Subscription, channel: str, raw: bytes) -> Delivery[None]:
        ident, defect = str(uuid.uuid4()), None
        try:
            body = _decode(raw)
            at = self._clock.time() if body.timestamp is None else body.timestamp / 1000
            message = Message(id=ident, type=channel, body=bytes(body.payload), enqueued_at=at)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
            defect = f'what was published is no {{"payload": …}}: {wrong}; it begins with {raw[:60]!r}'
            message = Message(id=ident, type=channel, body=raw)
        return Delivery(
            message=message, source=subscription.source, group=subscription.group, receipt=None, defect=defect
        )
