"""EventPublisher: validate, route, put into an envelope, send.

``publish`` returns when the broker has the event, and what goes wrong is raised. Concurrent calls share round trips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, cast

import msgspec

from ..batching import Batcher
from ..broker import Broker, Outgoing
from ..checks import not_negative
from ..clock import SYSTEM_CLOCK, Clock
from ..dialect import SupportsDialect
from ..errors import BrokerError, ConfigurationError, EncodeError, PayloadTooLarge, PublishError, UnsupportedFeature
from ..message import EMPTY, Message
from ..telemetry import TELEMETRY, Published, Telemetry
from .canonical import canonical
from .envelope import RESERVED, Stamp, event
from .routing import Route, Routes, StreamRule, stream_of
from .stats import PublisherStats, Tally
from .validation import EventValidator, Validator, check_validator, ensure_valid


class Prepared(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An event that is ready to be sent."""

    event_type: str
    transport: str
    outgoing: Outgoing

    @property
    def id(self) -> str:
        """The event's own id."""
        ident: str = self.outgoing.message.headers["id"]
        return ident


class _Transport:
    """A broker under a name. ``owned``: made here, so closed here."""

    def __init__(self, name: str, given: Any) -> None:
        if isinstance(given, str) or not hasattr(given, "publish"):
            raise ConfigurationError(f"the transport {name!r} must be a broker; write open_broker({given!r:.60})")
        self.owned = isinstance(given, SupportsDialect)
        self.broker: Broker[Any] = given.speaking("events") if isinstance(given, SupportsDialect) else given
        self.batcher = Batcher(self.broker.publish, limit=self.broker.capabilities.max_batch)


class EventPublisher:
    """Publishes events of one service.

    ``transports``: brokers by name, or one broker. ``origin``: the service's name. ``namespace``: what stands before the
    type on the wire, by default the origin. ``validator``: an ``EventValidator`` or anything with ``validate``.
    ``routes`` and ``default`` choose the transport. ``stream``: a name, or a function of the type, in place of the rule
    ``<first segment>-events``. A broker is used, not owned: ``close`` leaves it as it is.
    """

    def __init__(  # noqa: PLR0913 what users say about a publisher, by keyword
        self,
        transports: Broker[Any] | Mapping[str, Broker[Any]],
        *,
        origin: str,
        namespace: str | None = None,
        validator: Validator | None = None,
        routes: Iterable[Route] = (),
        default: str | None = None,
        stream: StreamRule | None = None,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        if not origin or not isinstance(cast("object", origin), str):
            raise ConfigurationError(f"origin must be given: the name of this service, got {origin!r}")
        given: Mapping[str, Any] = transports if isinstance(transports, Mapping) else {"default": transports}
        if not given:
            raise ConfigurationError("a publisher needs at least one transport, got none")
        check_validator(validator)
        if namespace is not None and not isinstance(cast("object", namespace), str):
            raise ConfigurationError(f"namespace is a text, what stands before the type, got {namespace!r:.100}")
        if stream is not None and not callable(stream):
            stream_of("", stream)
        self._routes = Routes(routes, given, default)
        self._transports = {name: _Transport(name, broker) for name, broker in given.items()}
        self._origin, self._namespace = origin, namespace or origin
        self._validator, self._stream = validator, stream
        self._clock, self._telemetry, self._closed = clock, telemetry, False
        self._types, self._by_transport = Tally(), Tally()
        self._sent = self._batches = self._failed = self._trips = 0
        self._seconds = 0.0
        self._last_error: str | None = None
        self._last_error_time: float | None = None

    async def publish(
        self,
        event_type: str,
        body: Any,
        *,
        key: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, Any] | None = None,
        validator: Validator | None = None,
    ) -> str:
        """Publish one event; its id. It may be any JSON value, a Struct, a dataclass or a pydantic model.

        ``key``: events with the same one are handled in order by consumers that are ``ordered``. ``headers``: sent along
        as ``header.extra``. ``validator``: for this event, in place of the publisher's. Raises ``ValidationError``,
        ``EncodeError`` and ``PayloadTooLarge`` before anything is sent; ``BrokerError`` and its kinds after.
        """
        prepared = await self.prepare(event_type, body, key=key, delay=delay, headers=headers, validator=validator)
        self._check_open()  # a validator may have taken its time, and nobody would disconnect a second time
        transport = self._transports[prepared.transport]
        began = self._clock.monotonic()
        try:
            await transport.broker.open()
            await transport.batcher.submit(prepared.outgoing)
        except BrokerError as error:
            self._note_failures([error])
            raise
        self._note_sent([prepared], self._clock.monotonic() - began)
        return prepared.id

    async def publish_many(self, event_type: str, bodies: Iterable[Any]) -> list[str]:
        """Publish several events of one type in as few round trips as possible; their ids.

        All of them are validated before the first is sent. Raises as ``publish`` does, and ``PublishError`` with the
        fate of each if only some were refused.
        """
        prepared = [await self.prepare(event_type, body) for body in bodies]
        fates = await self.send(prepared)
        failed = [fate for fate in fates if isinstance(fate, Exception)]
        if failed and len(failed) == len(fates):
            raise failed[0]
        if failed:
            raise PublishError(fates)
        return [each.id for each in prepared]

    async def prepare(
        self,
        event_type: str,
        body: Any,
        *,
        key: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, Any] | None = None,
        validator: Validator | None = None,
    ) -> Prepared:
        """All of ``publish`` but the sending: the envelope gets its id and its time now."""
        self._check_open()
        name, prefix = self._routes.of(event_type)
        text = canonical(body)
        judge = validator or self._validator
        if judge is not None:
            await ensure_valid(judge, event_type, body, text)
        self._check(name, event_type, text, delay, headers)
        if key is not None and not isinstance(cast("object", key), str):
            raise EncodeError(f"the key of an event is a text, got {key!r:.100}")
        stamp = Stamp(origin=self._origin, namespace=self._namespace, at=self._clock.time())
        message: Message = event(stamp, event_type, text, prefix=prefix, key=key, extra=headers or EMPTY)
        outgoing = Outgoing(destination=stream_of(event_type, self._stream), message=message, delay=delay)
        return Prepared(event_type=event_type, transport=name, outgoing=outgoing)

    async def send(self, prepared: Sequence[Prepared]) -> list[str | Exception]:
        """Send what was prepared, in order; the fate of each: its id on the broker, or the error."""
        self._check_open()
        fates: list[str | Exception] = [""] * len(prepared)
        by_transport: dict[str, list[int]] = {}
        for place, each in enumerate(prepared):
            by_transport.setdefault(each.transport, []).append(place)
        for name, places in by_transport.items():
            page = self._transports[name].broker.capabilities.max_batch
            for start in range(0, len(places), page):
                part = places[start : start + page]
                for place, fate in zip(part, await self._publish(name, [prepared[i] for i in part]), strict=True):
                    fates[place] = fate
        return fates

    async def _publish(self, name: str, prepared: Sequence[Prepared]) -> Sequence[str | Exception]:
        broker, began = self._transports[name].broker, self._clock.monotonic()
        fates: Sequence[str | Exception]
        try:
            await broker.open()
            fates = await broker.publish([each.outgoing for each in prepared])
        except PublishError as error:
            fates = error.results
        except Exception as error:  # noqa: BLE001 each message's fate is told, whatever the driver raises
            fates = [error] * len(prepared)
        self._batches += 1
        self._note_failures([fate for fate in fates if isinstance(fate, Exception)])
        sent = [each for each, fate in zip(prepared, fates, strict=True) if isinstance(fate, str)]
        self._note_sent(sent, self._clock.monotonic() - began)
        return fates

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("the publisher is closed")

    def _check(self, name: str, type_: str, text: bytes, delay: float, headers: Mapping[str, Any] | None) -> None:
        limits = self._transports[name].broker.capabilities
        if len(text) > limits.max_body:
            raise PayloadTooLarge(f"the body of {type_} has {len(text)} bytes, {name} takes {limits.max_body}")
        if delay:
            not_negative("delay, in seconds,", delay)
            if delay > limits.max_delay:
                raise UnsupportedFeature(f"{name} can delay for at most {limits.max_delay} seconds, got {delay}")
        if headers:
            if not isinstance(cast("object", headers), Mapping):
                raise EncodeError(f"headers are a mapping of names to JSON values, got {headers!r:.100}")
            if taken := RESERVED & headers.keys():
                raise EncodeError(f"the headers {sorted(taken)} are the envelope's own; choose other names")
            canonical(headers)

    def _note_sent(self, sent: Sequence[Prepared], seconds: float) -> None:
        self._sent += len(sent)
        self._trips += 1
        self._seconds += seconds
        for (type_, name, stream), count in Counter(
            (each.event_type, each.transport, each.outgoing.destination) for each in sent
        ).items():
            self._types.add(type_, count)
            self._by_transport.add(name, count)
            if self._telemetry:
                self._telemetry.emit(Published(stream, type_, count))

    def _note_failures(self, errors: Sequence[Exception]) -> None:
        if errors:
            self._failed += len(errors)
            self._last_error, self._last_error_time = str(errors[-1]), self._clock.time()

    def register_schema(self, event_type: str, schema: Any) -> None:
        """Give the publisher's own ``EventValidator`` one more schema."""
        if self._validator is None:
            self._validator = EventValidator()
        if not isinstance(self._validator, EventValidator):
            raise ConfigurationError(
                f"only an EventValidator takes schemas, this publisher has {self._validator!r:.80}"
            )
        self._validator.register(event_type, schema)

    def stats(self) -> PublisherStats:
        """Totals since it was made."""
        return PublisherStats(
            total_messages_sent=self._sent,
            by_type=self._types.view(),
            by_transport=self._by_transport.view(),
            total_batches_sent=self._batches,
            failed_messages=self._failed,
            average_latency=self._seconds / self._trips if self._trips else 0.0,
            last_error=self._last_error,
            last_error_time=self._last_error_time,
        )

    async def close(self) -> None:
        """Publish no more, and disconnect what was opened here. Idempotent."""
        self._closed = True
        for transport in self._transports.values():
            if transport.owned:
                await transport.broker.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
