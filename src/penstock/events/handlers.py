"""Which handler gets which event, and how it is called.

A handler is registered for a type, a pattern or a regular expression, and takes ``(body)`` or ``(body, header)``. The
type is that which the publisher named, or with its namespace in front. An exact type goes before patterns, patterns in
the order in which they were registered, and ``*`` comes last. What nobody handles is acked, counted, and logged once.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import types
import typing
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ..clock import Clock
from ..codec import Codec
from ..codecs import codec_for
from ..context import Context
from ..errors import ConfigurationError, DecodeError, NotAcknowledged
from ..message import Message
from ..outcome import ACK, DISCARDED, Outcome, Retry
from ..pattern import Pattern, is_exact, matcher
from ..registry import Registry, Route, is_async, wants_two
from .envelope import EventHeader, header_of, names_of
from .stats import MOST_NAMES, Observed

logger = logging.getLogger("penstock")

Handler = Callable[..., Any]


class BodyCodec:
    """Any JSON, half characters included, which JavaScript may write and msgspec does not read."""

    def encode(self, payload: Any) -> bytes:
        return msgspec.json.encode(payload)

    def decode(self, body: bytes) -> Any:
        try:
            return msgspec.json.decode(body)
        except (ValueError, RecursionError) as error:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                raise DecodeError(f"the body is not JSON: {error}; it begins with {body[:60]!r}") from error


ANY_BODY = BodyCodec()


class EventRegistry(Registry):
    """Finds handlers by all the names of an event. ``observed`` is told what they do."""

    def __init__(self, observed: Observed, clock: Clock, *, auto_ack: bool) -> None:
        super().__init__()
        self._observed, self._clock, self._auto_ack = observed, clock, auto_ack
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[Callable[[str], bool], Pattern, Route]] = []
        self._any: Route | None = None
        self._unhandled = Route(self._ignore, ANY_RAW, wants_context=True, threaded=False)
        self._known: dict[tuple[str, Any, Any], Route] = {}
        self._told: set[str] = set()

    def on(self, pattern: Pattern, handler: Handler, payload_type: Any = None) -> None:
        """Register a handler. The type of the body is that of its first parameter, unless one is given."""
        matches = matcher(pattern)
        if not callable(handler):
            raise ConfigurationError(f"a handler is a function of (body) or (body, header), got {handler!r:.100}")
        route = self._route(handler, payload_type)
        if isinstance(pattern, str) and (pattern == "*" or is_exact(pattern)):
            if (self._any is not None) if pattern == "*" else (pattern in self._exact):
                raise ConfigurationError(f"there is already a handler for {pattern!r}; remove it first, with off()")
            if pattern == "*":
                self._any = route
            else:
                self._exact[pattern] = route
        else:
            self._patterns.append((matches, pattern, route))
        self._known.clear()

    def off(self, pattern: Pattern) -> bool:
        """Remove the handlers of a pattern; false if there is none."""
        count = len(self._patterns) + len(self._exact) + (self._any is not None)
        self._patterns = [each for each in self._patterns if each[1] != pattern]
        if pattern == "*":
            self._any = None
        if isinstance(pattern, str):
            self._exact.pop(pattern, None)
        self._known.clear()
        return count > len(self._patterns) + len(self._exact) + (self._any is not None)

    def route(self, message: Message) -> Route | None:
        headers = message.headers
        key = (message.type, headers.get("origin"), headers.get("pattern"))
        try:
            found = self._known.get(key)
        except TypeError:  # somebody's pattern is no text
            return self._find(message)
        if found is None:
            if len(self._known) >= MOST_NAMES:
                self._known.clear()
            found = self._known[key] = self._find(message)
        return found

    def resolve(self, type_: str) -> Route | None:
        return self._find(Message(type=type_, body=b""))

    @property
    def types(self) -> tuple[str, ...]:
        named = [pattern if isinstance(pattern, str) else pattern.pattern for _, pattern, _ in self._patterns]
        return (*sorted([*self._exact, *named]), *(("*",) if self._any else ()))

    @property
    def threaded(self) -> bool:
        routes = [*self._exact.values(), *(route for _, _, route in self._patterns)]
        return any(route.threaded for route in routes) or (self._any is not None and self._any.threaded)

    def _find(self, message: Message) -> Route:
        names = names_of(message)
        for name in names:
            if name in self._exact:
                return self._exact[name]
        for matches, _, route in self._patterns:
            if any(matches(name) for name in names):
                return route
        return self._any or self._unhandled

    async def _ignore(self, _: Any, context: Context) -> Outcome:
        self._observed.unhandled += 1
        if context.type not in self._told:
            if len(self._told) < MOST_NAMES:
                self._told.add(context.type)
            logger.warning(
                "no handler for events of type %s, which are acked; there are: %s",
                context.type,
                ", ".join(self.types) or "none",
            )
        return DISCARDED

    # ------------------------------------------------------------------------------------------------------- calling

    def _route(self, handler: Handler, payload_type: Any) -> Route:
        with_header = wants_two(handler)
        kind = payload_type if payload_type is not None else _body_type(handler)
        codec: Codec[Any] = ANY_BODY if kind in (None, Any, object) else codec_for(kind)
        if is_async(handler):
            return Route(self._awaited(handler, with_header=with_header), codec, wants_context=True, threaded=False)
        return Route(self._called(handler, with_header=with_header), codec, wants_context=True, threaded=True)

    def _awaited(self, handler: Handler, *, with_header: bool) -> Handler:
        observed, clock, plain = self._observed, self._clock, self._auto_ack and not with_header

        async def call(body: Any, context: Context) -> Any:
            began = clock.monotonic()
            header = None if plain else header_of(context)
            try:
                result = await (handler(body, header) if with_header else handler(body))
            except BaseException as error:  # noqa: BLE001 it is raised again, or was acked before
                observed.went_wrong(error, clock.time())
                return self._in_spite_of(header, error)
            finally:
                observed.done(context.id, context.type, clock.monotonic() - began, clock.time())
            return result if plain else self._outcome(header, result)

        return call

    def _called(self, handler: Handler, *, with_header: bool) -> Handler:
        observed, clock = self._observed, self._clock

        def call(body: Any, context: Context) -> Any:
            began, header = clock.monotonic(), header_of(context)
            try:
                result = handler(body, header) if with_header else handler(body)
            except BaseException as error:  # noqa: BLE001 it is raised again, or was acked before
                observed.went_wrong(error, clock.time())
                return self._in_spite_of(header, error)
            finally:
                observed.done(context.id, context.type, clock.monotonic() - began, clock.time())
            return self._outcome(header, result)

        return call

    def _outcome(self, header: EventHeader | None, result: Any) -> Any:
        """What was said by the header, else what was returned, else what silence means."""
        if header is not None and header.outcome is not None:
            return header.outcome
        if result is not None or self._auto_ack:
            return result
        return Retry(error=NotAcknowledged())

    @staticmethod
    def _in_spite_of(header: EventHeader | None, error: BaseException) -> Outcome:
        """An event that was acked by the header stays so; else the error is the policy's."""
        if header is None or header.outcome is not ACK or not isinstance(error, Exception):
            raise error
        logger.error("failed after it was acked", exc_info=error, extra=header.context.fields())
        return ACK


class _Raw:
    """Bytes as they are: of an event that nobody handles nothing has to be read."""

    def encode(self, payload: bytes) -> bytes:
        return payload

    def decode(self, body: bytes) -> bytes:
        return body


ANY_RAW = _Raw()


def _body_type(handler: Handler) -> Any:
    """The annotation of the first parameter; ``None`` if there is none."""
    target: Any = handler
    while isinstance(target, functools.partial):
        target = cast("Any", target).func
    if not inspect.isroutine(target):
        target = type(target).__call__
    name, parameter = next(iter(inspect.signature(handler).parameters.items()))
    if parameter.annotation is parameter.empty:
        return None
    alone = types.SimpleNamespace(__annotations__={name: parameter.annotation})
    try:
        kind = typing.get_type_hints(alone, globalns=getattr(target, "__globals__", {}))[name]
    except NameError as error:
        raise ConfigurationError(
            f"the type of the body in {getattr(handler, '__qualname__', handler)!r} cannot be found ({error}): define it"
            " where the module can see it, or give payload_type="
        ) from error
    return None if isinstance(kind, typing.TypeVar) else kind
