"""Producer[T]: the typed write side of one destination.

``send`` returns when the broker has the message. Concurrent sends share round trips; a lone one waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from .audit import Audit, Audited
from .batching import Batcher
from .broker import Broker, Outgoing
from .checks import finite, positive
from .clock import SYSTEM_CLOCK, Clock
from .codec import Codec
from .codecs import codec_for
from .deadlines import EXPIRES_AT, TIMEOUT
from .effects import SupportsTransaction
from .errors import (
    BrokerError,
    ConfigurationError,
    EncodeError,
    NotArchived,
    PayloadTooLarge,
    PublishError,
    UnsupportedFeature,
)
from .message import EMPTY, Message
from .pipeline import Middleware, compose
from .sharding import Shards
from .store import ForgetfulCache, IdempotencyCache
from .telemetry import TELEMETRY, Published, PublishFailed, Telemetry

T = TypeVar("T")

logger = logging.getLogger("penstock")

SENTINEL_ID = "0-0"
# Header names with a meaning on the wire
RESERVED = frozenset({"type", "attempt", "enqueuedAt", "key", "retryGroup", TIMEOUT, EXPIRES_AT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Send a message with the same type and key only once in ``ttl`` seconds.

    Without ``cache`` the broker itself does it, in one step with the append. With ``cache`` (any object with
    ``set_if_absent``) the key is set first: a crash between the two loses that message, as with any outside cache; a
    send that fails takes its key back if the cache has ``forget``.
    For a duplicate ``send`` returns the first message's id, or, with a cache, which does not know it, ``0-0``.
    """

    ttl: float
    cache: IdempotencyCache | None = None

    def __post_init__(self) -> None:
        if self.ttl <= 0:
            raise ConfigurationError(f"an idempotency ttl is in seconds and more than 0, got {self.ttl}")


@dataclass(frozen=True, slots=True)
class Send(Generic[T]):
    """One item of ``send_many`` with options of its own."""

    payload: T
    type: str | None = None
    key: str | None = None
    delay: float = 0.0
    headers: Mapping[str, Any] | None = None
    timeout: float | None = None
    expires: float | None = None


class Producer(Generic[T]):
    """Writes payloads of one type to ``stream``.

    ``shards``: streams that it is spread over, the same number as the consumers'; a key decides which one a message
    goes to. ``default_type``: the message type of sends that name none. ``max_body``: bytes of one encoded payload.
    ``expires``: that of sends that say nothing of it. ``middleware``: around every publish, first outermost; it sees
    the encoded ``Outgoing`` and returns the id. ``archive``: where a row of each message is kept.
    """

    def __init__(  # noqa: PLR0913 what users say about a producer, by keyword
        self,
        broker: Broker[Any],
        stream: str,
        payload_type: type[T],
        *,
        shards: int = 1,
        default_type: str = "msg",
        codec: Codec[T] | None = None,
        idempotency: Idempotency | None = None,
        middleware: Sequence[Middleware[Outgoing, str]] = (),
        max_body: int = 8 * 1024 * 1024,
        expires: float | None = None,
        archive: Audit | None = None,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        if isinstance(broker, str):
            raise ConfigurationError(f"a producer needs a broker, got a text; write open_broker({broker!r})")
        if not stream:
            raise ConfigurationError("a producer needs the name of a stream, got an empty one")
        if idempotency is not None and idempotency.cache is None and not broker.capabilities.idempotent:
            raise UnsupportedFeature(f"{broker.url} cannot send idempotently by itself; give Idempotency a cache")
        if expires is not None:
            _finite("expires", expires)
        self.broker, self.stream, self._expires = broker, stream, expires
        self._shards = Shards(stream, shards, seed=broker.identity) if shards != 1 else None
        self._codec: Codec[T] = codec or codec_for(payload_type)
        self._default_type, self._idempotency = default_type, idempotency
        self._ttl = idempotency.ttl if idempotency is not None else 0.0
        self._max_body = min(max_body, broker.capabilities.max_body)
        self._clock, self._telemetry = clock, telemetry
        self._audited = None if archive is None else Audited(broker, archive)
        self._batcher = Batcher(self._publish, limit=broker.capabilities.max_batch)
        self._middleware = tuple(middleware)
        self._submit = compose(self._middleware, self._batcher.submit)

    async def send(  # noqa: PLR0913 what there is to say about one message, by keyword
        self,
        payload: T,
        *,
        type: str | None = None,
        key: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 the handler's, not this call's
        expires: float | None = None,
        connection: Any = None,
    ) -> str:
        """Send one message, to be delivered after ``delay`` seconds; its id.

        ``key``: idempotency key, carried along in any case. ``timeout``: seconds that one execution may take, if the
        consumer does not allow less. ``expires``: seconds from now after which it is not worth running. Raises
        ``EncodeError``, ``ValidationError``, ``PayloadTooLarge`` before anything is sent; ``ConnectionFailed``,
        ``AccessDenied``, ``BrokerError`` after; ``NotArchived`` with an archive that writes at once.
        ``connection``: on a SQL broker, SQLAlchemy's session or connection to the same database: the message is part of
        its transaction, and is sent when that is committed.
        """
        if connection is None:
            await self.broker.open()
        if headers or timeout is not None or expires is not None or self._expires is not None:
            headers = self._headers(headers, delay, timeout, expires)
        outgoing = self._outgoing(payload, type, key, delay, headers or EMPTY)
        if connection is not None:
            return (await self._all_in(connection, (outgoing,)))[0]
        return await self._one(outgoing)

    async def send_many(
        self,
        payloads: Iterable[T | Send[T]],
        *,
        type: str | None = None,
        delay: float = 0.0,
        connection: Any = None,
    ) -> list[str]:
        """Send many messages in as few round trips as possible; their ids in order.

        Items may be payloads or ``Send`` values with options of their own. Everything is encoded before anything is
        sent. Raises as ``send`` does, and ``PublishError`` with the fate of each when only some were refused.
        ``connection``: as for ``send``.
        """
        if connection is None:
            await self.broker.open()
        outgoings = [self._item(item, type, delay) for item in payloads]
        if connection is not None:
            return await self._all_in(connection, outgoings)
        if self._middleware or (self._idempotency is not None and self._idempotency.cache is not None):
            return _all_or_error(await asyncio.gather(*map(self._one, outgoings), return_exceptions=True))
        try:
            ids = await self._publish_in_pages(outgoings)
        except PublishError as error:
            self._tell([each for each, fate in zip(outgoings, error.results, strict=False) if isinstance(fate, str)])
            raise
        self._tell(outgoings)
        return ids

    async def _publish_in_pages(self, outgoings: Sequence[Outgoing]) -> list[str]:
        page, ids = self.broker.capabilities.max_batch, list[str]()
        for start in range(0, len(outgoings), page):
            try:
                ids += await self._publish(outgoings[start : start + page])
            except BrokerError as error:
                if not start and not isinstance(error, PublishError):
                    raise
                fates: list[str | Exception] = [*ids]
                fates += error.results if isinstance(error, PublishError) else [error] * page
                fates += [BrokerError("not tried, because an earlier page failed")] * (len(outgoings) - len(fates))
                raise PublishError(fates[: len(outgoings)]) from error
        return ids

    async def _all_in(self, connection: Any, outgoings: Sequence[Outgoing]) -> list[str]:
        """Publish in somebody's transaction, behind the same middleware."""
        broker = self.broker
        if not isinstance(broker, SupportsTransaction):
            raise UnsupportedFeature(
                f"{broker.url} cannot take part in a transaction; send after the commit, or use a SQL broker"
            )
        if self._idempotency is not None and self._idempotency.cache is not None:
            raise UnsupportedFeature("an outside cache of keys cannot be rolled back; give Idempotency no cache here")
        if not self._middleware:
            ids = list(await broker.publish_in(connection, outgoings)) if outgoings else []
        else:

            async def last(outgoing: Outgoing) -> str:
                return (await broker.publish_in(connection, (outgoing,)))[0]

            submit = compose(self._middleware, last)
            ids = [await submit(outgoing) for outgoing in outgoings]
        self._tell(outgoings)
        return ids

    def _tell(self, published: Sequence[Outgoing]) -> None:
        if self._telemetry:
            for type_, count in Counter(outgoing.message.type for outgoing in published).items():
                self._telemetry.emit(Published(self.stream, type_, count))

    async def _one(self, outgoing: Outgoing) -> str:
        cache, slot = self._cached(outgoing)
        if cache is not None and not await cache.set_if_absent(slot, self._ttl):
            return SENTINEL_ID
        try:
            ident = await self._submit(outgoing)
        except NotArchived:
            raise
        except Exception:
            if isinstance(cache, ForgetfulCache):
                await _take_back(cache, slot)
            raise
        if self._telemetry:
            self._telemetry.emit(Published(self.stream, outgoing.message.type, 1))
        return ident

    async def _publish(self, outgoings: Sequence[Outgoing]) -> Sequence[str]:
        try:
            return await (self._audited or self.broker).publish(outgoings)
        except Exception as error:
            if self._telemetry:
                _tell_failed(self._telemetry, self.stream, outgoings, error)
            raise

    def _item(self, item: T | Send[T], type_: str | None, delay: float) -> Outgoing:
        if isinstance(item, Send):
            send = cast("Send[T]", item)
            delay = send.delay or delay
            headers = self._headers(send.headers, delay, send.timeout, send.expires)
            return self._outgoing(send.payload, send.type or type_, send.key, delay, headers)
        return self._outgoing(item, type_, None, delay, self._headers(None, delay, None, None))

    def _outgoing(
        self, payload: T, type_: str | None, key: str | None, delay: float, headers: Mapping[str, Any]
    ) -> Outgoing:
        if type(type_ or "") is not str or type(key or "") is not str:
            raise EncodeError(f"type and key are texts, got {type_!r} and {key!r}")
        body = self._codec.encode(payload)
        if len(body) > self._max_body:
            raise PayloadTooLarge(
                f"the payload has {len(body)} bytes, {self.stream!r} takes {self._max_body}; send a reference to it, or"
                " raise max_body here and at the consumer"
            )
        if delay and not 0 <= delay <= self.broker.capabilities.max_delay:
            self._check_delay(delay)
        message = Message(
            type=type_ or self._default_type,
            body=body,
            key=key,
            enqueued_at=self._clock.time(),
            headers=headers,
        )
        once = None
        if key is not None and self._idempotency is not None and self._idempotency.cache is None:
            once = self._idempotency.ttl
        destination = self.stream if self._shards is None else self._shards.choose(key)
        return Outgoing(destination=destination, message=message, delay=delay, once=once)

    def _headers(
        self, given: Mapping[str, Any] | None, delay: float, timeout: float | None, expires: float | None
    ) -> Mapping[str, Any]:
        """The headers that go along: the caller's, checked, and the terms of this message."""
        if given:
            _check_headers(given)
        expires = self._expires if expires is None else expires
        if timeout is None and expires is None:
            return given or EMPTY
        headers = dict(given or EMPTY)
        if timeout is not None:
            _finite("timeout", timeout)
            headers[TIMEOUT] = timeout
        if expires is not None:
            _finite("expires", expires)
            if expires <= delay:
                raise ConfigurationError(f"it would expire after {expires} s, before its delay of {delay} s is over")
            headers[EXPIRES_AT] = round((self._clock.time() + expires) * 1000)
        return headers

    def _check_delay(self, delay: float) -> None:
        if delay < 0 or math.isnan(delay):
            raise ConfigurationError(f"delay is in seconds and not negative, got {delay}")
        most = self.broker.capabilities.max_delay
        raise UnsupportedFeature(f"{self.broker.url} can delay for at most {most} seconds, got {delay}")

    def _cached(self, outgoing: Outgoing) -> tuple[IdempotencyCache | None, str]:
        """The outside cache that knows this message, if there is one, and by which name."""
        key = outgoing.message.key
        cache = None if self._idempotency is None or key is None else self._idempotency.cache
        return cache, f"idemp:{self.stream}:{key}"


def _finite(name: str, seconds: float) -> None:
    positive(f"{name}, in seconds,", seconds)
    finite(name, seconds)


async def _take_back(cache: ForgetfulCache, slot: str) -> None:
    """Best effort: the error of the send is what the caller must hear of."""
    try:
        await cache.forget(slot)
    except Exception as error:  # noqa: BLE001 somebody else's cache may raise anything
        logger.warning("the key of a send that failed stays set until its ttl ends: %s", error)


def _tell_failed(telemetry: Telemetry, stream: str, outgoings: Sequence[Outgoing], error: Exception) -> None:
    fates = error.results if isinstance(error, PublishError) else [error] * len(outgoings)
    lost = [isinstance(fate, Exception) and not isinstance(fate, NotArchived) for fate in fates]
    failed = [each.message.type for each, is_lost in zip(outgoings, lost, strict=False) if is_lost]
    for type_, count in Counter(failed).items():
        telemetry.emit(PublishFailed(stream, type_, count))


def _check_headers(headers: Mapping[Any, Any]) -> None:
    if not isinstance(cast("object", headers), Mapping):
        raise EncodeError(f"headers are a mapping of names to JSON values, got {headers!r:.100}")
    names = [each for each in headers if type(each) is not str or not each]
    if names:
        raise EncodeError(f"the names of headers are texts, got {names!r:.100}")
    if taken := RESERVED & headers.keys():
        raise EncodeError(f"the headers {sorted(taken)} are penstock's own; choose other names")
    try:
        msgspec.json.encode(headers)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise EncodeError(f"headers must be JSON values: {error}") from error


def _all_or_error(results: Sequence[str | BaseException]) -> list[str]:
    """All ids, or what became of each."""
    fates = [r if isinstance(r, str | Exception) else BrokerError(repr(r)) for r in results]
    if any(isinstance(fate, Exception) for fate in fates):
        raise PublishError(fates)
    return [fate for fate in fates if isinstance(fate, str)]
