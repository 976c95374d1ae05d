"""NotificationManager: publish to channels, subscribe to patterns, on any broker that knows patterns.

It owns no loop, no retry and no dead letter: each pattern and group is a consumer of the engine in one worker, which
starts with the first subscription. On Redis the keys and fields are those of Rotif, so TypeScript services may take part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, Self, cast

from ..app import open_broker, open_store
from ..bindings import SupportsBindings
from ..broker import Broker
from ..checks import at_least_one, known, one_of
from ..clients.redis_address import REDIS_SCHEMES
from ..clock import SYSTEM_CLOCK, Clock
from ..codec import Codec
from ..codecs import codec_for
from ..context import current
from ..errors import ConfigurationError, UnsupportedFeature
from ..glob import glob
from ..store import Store
from ..telemetry import TELEMETRY, Telemetry
from ..worker import Worker
from .dead_letters import Cleanup, DeadLetters
from .hooks import Hooks
from .lanes import Lanes
from .options import NotificationOptions, RetryDelay, attempts, check_delay, from_rotif
from .publishing import Publishing, PublishOptions, check, check_name
from .subscription import NotificationHandler, NotificationSubscription, Silence, Terms


class NotificationManager:
    """``broker``: an address, or a broker. ``options``: see ``NotificationOptions``.

    ``store``: where it is remembered what was handled exactly once and who reads which dead letter; by default beside the
    broker. ``cleanup``: sweep dead letters now and then. Raises ``ConfigurationError``, ``UnsupportedFeature``.
    """

    def __init__(
        self,
        broker: str | Broker[Any],
        *,
        store: Store | str | None = None,
        cleanup: Cleanup | None = None,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry = TELEMETRY,
        **options: Any,
    ) -> None:
        known("NotificationManager", options, tuple(NotificationOptions.__dataclass_fields__))
        self.options = chosen = NotificationOptions(**options)
        self._url, self._named = (broker, True) if isinstance(broker, str) else (broker.url, False)
        opened = _opened(broker, chosen) if isinstance(broker, str) else _checked(broker, chosen)
        self.broker: Broker[Any] = cast("Broker[Any]", opened)
        self._clock, self._given_store = clock, store
        self._store: Store | None = None
        self._hooks = Hooks()
        self._publishing = Publishing(opened, chosen, self._hooks, clock)
        self.dead_letters = DeadLetters(opened, clock)
        self._pubsub: Broker[Any] | None = None
        self._lanes = Lanes(self, self._hooks, cleanup, clock, telemetry)
        self._stopping: asyncio.Task[None] | None = None
        self._opened = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **others: Any) -> Self:
        """A manager from Rotif's configuration: ``{"redis": …, "maxRetries": 3, "blockInterval": 1000 …}``.

        Times are milliseconds there (``deduplicationTTL`` seconds). ``others``: as for the class.
        """
        url, options = from_rotif(config)
        return cls(url, **{**options, **others})

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    def use(self, hooks: object) -> None:
        """Add hooks: an object with ``before_publish``, ``after_publish``, ``before_process``, ``after_process`` or
        ``on_error``, or a mapping of them.
        """
        self._hooks.add(hooks)

    async def publish(  # noqa: PLR0913 what users say about a message, by keyword
        self,
        channel: str,
        payload: Any = None,
        *,
        delay: float = 0.0,
        at: datetime | float | None = None,
        key: str | None = None,
        exactly_once: bool = False,
        dedup_ttl: float | None = None,
        attempt: int = 1,
        headers: Mapping[str, Any] | None = None,
        pubsub: bool = False,
    ) -> list[str]:
        """Publish a message to everybody whose pattern matches; one id for each pattern, none for a duplicate.

        ``delay``: seconds, ``at``: a moment from which on it is delivered, to those who are subscribed now. ``key``: a
        second message with it, to the same channel, within ``dedup_ttl`` is a duplicate; with ``exactly_once`` a second one
        with an equal payload is, and subscribers are asked to handle it once. ``attempt``: number of its first handling.
        ``pubsub``: to those who listen now (Redis). Raises ``NobodySubscribed`` if no pattern matches, unless the manager
        says otherwise; ``EncodeError``, ``ConnectionFailed``, ``BrokerError``; what a hook raises.
        """
        options = PublishOptions(
            delay=delay,
            at=at,
            key=key,
            exactly_once=exactly_once,
            dedup_ttl=dedup_ttl,
            attempt=attempt,
            headers=headers,
            pubsub=pubsub,
        )
        check(channel, options)
        await self._open()
        if self._hooks.has("before_publish"):
            await self._hooks.run("before_publish", channel, payload, options)
        if pubsub:
            ids = await self._lanes.say(self.pubsub(), self._publishing.message(channel, payload, options))
            await self._hooks.tell("after_publish", channel, payload, ids, options)
            return ids
        return await self._publishing.publish(channel, payload, options)

    async def subscribe(  # noqa: PLR0913 what users say about a subscription, by keyword
        self,
        pattern: str,
        handler: NotificationHandler,
        *,
        group: str | None = None,
        start: Literal["first", "next"] = "first",
        max_retries: int | None = None,
        retries_after_first: bool | None = None,
        retry_delay: RetryDelay | None = None,
        exactly_once: bool = False,
        concurrency: int = 1,
        auto_ack: bool = True,
        pubsub: bool = False,
        payload_type: Any = Any,
    ) -> NotificationSubscription:
        """Call ``handler(message)`` for each message of a channel that the pattern matches. Returns when it is in place:
        what is published from then on, by anybody, arrives.

        ``group``: its subscribers share the messages; each group gets all. ``start``: where a new group begins, at the
        first message kept or the next. ``concurrency``: messages at once; with one they come in order. Subscriptions of this
        manager with one pattern and group share the first one's, and its ``payload_type``. ``auto_ack``:
        returning acks, else the handler's slot waits for ``message.ack()``, ``retry()`` or ``dead_letter()``.
        ``exactly_once``: an equal payload, or key, is not handled again for a while. ``pubsub``: listen only, with Redis'
        own patterns; nothing is kept or tried again. The rest as in ``NotificationOptions``.
        """
        chosen = self.options
        after = chosen.retries_after_first if retries_after_first is None else retries_after_first
        delay = chosen.retry_delay if retry_delay is None else retry_delay
        check_delay(delay)
        at_least_one("concurrency, the messages at once,", concurrency)
        one_of("start", start, ("first", "next"))
        if not callable(handler):
            raise ConfigurationError(f"a handler is a function of (message), got {handler!r:.100}")
        check_name("a pattern is a text such as 'orders.*'", pattern)
        check_name("a group is a text", "default" if group is None else group)
        if not pubsub:
            glob(pattern)  # before anything is made for one that means nothing
        terms = Terms(
            handler=handler,
            max_attempts=attempts(chosen.max_retries if max_retries is None else max_retries, after_first=after),
            retry_delay=delay,
            exactly_once=exactly_once,
            silence="ack" if auto_ack else "wait",
            concurrency=concurrency,
            payload_type=payload_type,
        )
        codec: Codec[Any] = self._publishing.codec if payload_type is Any else codec_for(payload_type)
        await self._open()
        if pubsub:
            once = replace(terms, max_attempts=1, exactly_once=False)
            return await self._lanes.listen(self.pubsub(), pattern, once, codec)
        name = chosen.group_of(pattern) if group is None else group
        return await self._lanes.enter(pattern, name, terms, codec, start)

    async def subscribe_to_dlq(
        self,
        handler: NotificationHandler,
        *,
        group: str = "dlq-group",
        auto_ack: bool = False,
        retry_delay: RetryDelay = 1.0,
    ) -> NotificationSubscription:
        """Call ``handler(message)`` for each dead letter, those that are there and those to come.

        ``message.ack()`` removes the letter; without it the letter stays, and is not handed out again. If the handler fails,
        it is called again after ``retry_delay``, for as long as it takes. With ``auto_ack`` returning acks.
        """
        check_delay(retry_delay)
        await self._open()
        silence: Silence = "ack" if auto_ack else "keep"
        terms = Terms(handler=handler, max_attempts=2**31, retry_delay=retry_delay, silence=silence)
        return await self._lanes.read_letters(group, terms)

    async def requeue_from_dlq(self, count: int = 10) -> int:
        """Put the oldest ``count`` dead letters back where they came from, as fresh messages; how many that were."""
        await self._open()
        return await self.dead_letters.requeue(count)

    def get_subscriptions(self) -> list[NotificationSubscription]:
        """The subscriptions of this manager."""
        return self._lanes.subscriptions

    @property
    def worker(self) -> Worker | None:
        """What runs the subscriptions, once there is one."""
        return self._lanes.worker

    async def stop_all(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 running out of it is no error
        """Stop: handlers get ``timeout`` seconds (by default ``drain``) to finish, the rest goes back. Idempotent."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(timeout))
        if current() is None:  # a handler cannot wait for its own end
            await asyncio.shield(self._stopping)

    async def _stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 see stop_all
        await self._lanes.stop(timeout)
        for part in (self._pubsub, self.broker, self._store):
            if part is not None:
                await part.close()

    async def _open(self) -> None:
        if self._lanes.stopped:
            raise ConfigurationError("the manager has been stopped; make another one")
        if not self._opened:
            await self.broker.open()
            self._opened = True

    def store(self) -> Store:
        """Where it is remembered what was done."""
        if self._store is None:
            given = self._given_store
            if given is None and not self._named and self.broker.capabilities.shared:
                raise ConfigurationError(
                    "exactly-once handling and dead-letter subscriptions need a store: name one beside the broker, such as"
                    " store='redis://localhost' or store='sqlite:///keys.db'"
                )
            if given is None:
                given = self._url if self._named else "memory://"
            self._store = open_store(given) if isinstance(given, str) else given
        return self._store

    def pubsub(self) -> Broker[Any]:
        """Redis' Pub/Sub beside the broker."""
        if self._pubsub is None:
            address = self._url.removeprefix("rotif+")
            if not self._named:
                raise ConfigurationError("for pubsub make the manager with Redis' address, not with a broker")
            if address.partition("://")[0] not in REDIS_SCHEMES:
                raise UnsupportedFeature(f"{self._url} has no Pub/Sub; leave pubsub out, or use redis://")
            self._pubsub = open_broker(f"pubsub+{address}")
        return self._pubsub


def _opened(url: str, options: NotificationOptions) -> SupportsBindings:
    """The broker at an address. On Redis it speaks Rotif's dialect."""
    scheme = url.partition("://")[0].lower()
    if scheme in REDIS_SCHEMES:
        url = f"rotif+{url}"
    if not url.lower().startswith("rotif+"):
        return _checked(open_broker(url), options)
    own: dict[str, Any] = {
        "dedup_ttl": options.dedup_ttl,
        "consumer": options.consumer,
        "min_id": options.min_stream_id,
    }
    if options.max_stream_length is not None:
        own |= {"retention": "limits", "max_length": options.max_stream_length}
    return cast("SupportsBindings", open_broker(url, **own))


def _checked(broker: Broker[Any], options: NotificationOptions) -> SupportsBindings:
    if not isinstance(broker, SupportsBindings):
        remedy = (
            "open it as rotif+redis://…"
            if broker.url.partition("://")[0] in REDIS_SCHEMES
            else ("use redis://, postgresql://, mysql://, sqlite:/// or memory://")
        )
        raise UnsupportedFeature(f"{broker.url} knows no patterns of channels; {remedy}")
    for name in ("max_stream_length", "min_stream_id", "consumer"):
        if getattr(options, name) is not None:
            raise UnsupportedFeature(
                f"{name} is for managers that open Redis by its address; leave it out for {broker.url}"
            )
    return broker
