"""The publishing side: hooks, encoding, deduplication, what becomes of a message that nobody wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from ..batching import Batcher
from ..bindings import Fate, Post, Posted, SupportsBindings
from ..checks import at_least_one, not_negative
from ..clock import Clock
from ..codecs.javascript import JavaScriptCodec
from ..errors import ConfigurationError, NobodySubscribed
from ..message import EMPTY, Message
from .dedup import DEDUP_TTL, EXACTLY_ONCE
from .fingerprint import fingerprint
from .hooks import Hooks
from .options import NotificationOptions

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What was said about one message, as hooks see it. See ``NotificationManager.publish``."""

    delay: float = 0.0
    at: datetime | float | None = None
    key: str | None = None
    exactly_once: bool = False
    dedup_ttl: float | None = None
    attempt: int = 1
    headers: Mapping[str, Any] | None = None
    pubsub: bool = False


class Publishing:
    """``broker``: knows bindings."""

    def __init__(self, broker: SupportsBindings, options: NotificationOptions, hooks: Hooks, clock: Clock) -> None:
        self._broker, self._options, self._hooks, self._clock = broker, options, hooks, clock
        self.codec = JavaScriptCodec()
        self._batcher: Batcher[Post, Fate] = Batcher(broker.post, limit=PAGE)

    async def publish(self, channel: str, payload: Any, options: PublishOptions) -> list[str]:
        """Spread one message; see ``NotificationManager.publish``."""
        fate = await self._batcher.submit(self._post(channel, payload, options))
        if isinstance(fate, Exception):
            raise fate
        if not fate.matched and not fate.ids and self._options.unrouted != "drop":
            raise NobodySubscribed(
                f"no pattern matches the channel {channel!r}, so nothing was stored; subscribe first, or make the manager"
                " with unrouted='keep' (for who subscribes to exactly this channel later) or unrouted='drop'"
            )
        return await self._told(channel, payload, options, fate)

    async def _told(self, channel: str, payload: Any, options: PublishOptions, fate: Posted) -> list[str]:
        ids = list(fate.ids)
        if fate.matched or ids:
            await self._hooks.tell("after_publish", channel, payload, ids, options)
        return ids

    def message(self, channel: str, payload: Any, options: PublishOptions) -> Message:
        """The message that goes out."""
        headers = options.headers or EMPTY
        if options.exactly_once or options.dedup_ttl is not None:
            ttl = self._options.dedup_ttl if options.dedup_ttl is None else options.dedup_ttl
            headers = {**headers, EXACTLY_ONCE: options.exactly_once, DEDUP_TTL: ttl}
        return Message(
            type=channel,
            body=self.codec.encode(payload),
            key=options.key,
            attempt=max(options.attempt - 1, 0),
            enqueued_at=self._clock.time(),
            headers=headers,
        )

    def _post(self, channel: str, payload: Any, options: PublishOptions) -> Post:
        message, mark, once = self.message(channel, payload, options), options.key, None
        if options.exactly_once or mark is not None:
            ttl = self._options.dedup_ttl if options.dedup_ttl is None else options.dedup_ttl
            once = ttl if ttl > 0 else None
        if once is not None and mark is None:
            named = self._options.dedup_key
            mark = fingerprint(message.body) if named is None else named(channel, payload)
        return Post(
            message=message,
            delay=self._delay(options),
            once=once,
            mark=None if once is None or mark == options.key else mark,
            keep=self._options.unrouted == "keep",
        )

    def _delay(self, options: PublishOptions) -> float:
        """Seconds from now; what lies in the past is due at once."""
        if options.at is None:
            return max(options.delay, 0.0)
        at = options.at.timestamp() if isinstance(options.at, datetime) else options.at
        return max(at - self._clock.time(), 0.0)


def check(channel: Any, options: PublishOptions) -> None:
    """Raise ``ConfigurationError`` for what cannot be meant."""
    check_name("a channel has a name, such as 'orders.created'", channel)
    delay: Any = options.delay
    if not isinstance(delay, int | float) or not math.isfinite(delay):
        raise ConfigurationError(f"delay is a number of seconds, got {delay!r}")
    at: Any = options.at
    if at is not None and not isinstance(at, datetime | int | float):
        raise ConfigurationError(f"at is a datetime, or seconds since the epoch, got {at!r:.60}")
    if isinstance(at, int | float) and not math.isfinite(at):
        raise ConfigurationError(f"at is a moment, in seconds since the epoch, got {at!r}")
    if isinstance(options.at, datetime) and options.at.tzinfo is None:
        raise ConfigurationError("at is a moment with a time zone, such as datetime.now(UTC) + timedelta(minutes=5)")
    if options.at is not None and options.delay:
        raise ConfigurationError("a message has a delay or a moment, at, not both")
    if options.dedup_ttl is not None:
        not_negative("dedup_ttl, in seconds,", options.dedup_ttl)
    if options.key is not None:
        check_name("a key is a text", options.key)
    at_least_one("attempt, which counts from 1,", options.attempt)
    if options.pubsub and (options.delay > 0 or options.at is not None or options.key or options.exactly_once):
        raise ConfigurationError("Pub/Sub keeps nothing: pubsub=True goes with no delay, at, key or exactly_once")
    if options.pubsub and options.headers:
        raise ConfigurationError("Pub/Sub carries a payload and nothing else: pubsub=True goes with no headers")
    _check_headers(options.headers)


def check_name(what: str, name: Any) -> None:
    """A text that a server can be told."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{what}, got {'an empty one' if name == '' else format(repr(name), '.60')}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{what}, got half a character in {name!a:.60}") from error


def _check_headers(headers: Any) -> None:
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers are values by name, got {headers!r:.60}")
    if headers:
        try:
            msgspec.json.encode(headers)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise ConfigurationError(f"headers are JSON values: {error}") from error
