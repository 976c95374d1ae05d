"""EventConsumer: handlers by type, pattern or regular expression, on one stream, as one group.

It is a ``Consumer`` and a ``Worker`` of the engine, told what the events need: which handler an event is for
(``handlers``), what a body must look like, and where dead letters go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar

from ..broker import Broker, SupportsInspect
from ..checks import at_least_one, not_negative, one_of, positive
from ..clock import SYSTEM_CLOCK, Clock
from ..consumer import Consumer
from ..context import Context
from ..dialect import SupportsDialect
from ..errors import BrokerError, ConfigurationError, DecodeError, UnsupportedFeature, ValidationError
from ..executor import Limits
from ..intake import Prefetch
from ..message import Delivery, Envelope
from ..middleware.deduplicate import Deduplicate
from ..outcome import DeadLetter, Outcome
from ..pattern import Pattern
from ..pipeline import ConsumeMiddleware
from ..plan import Claim, Options
from ..retry import Exponential, RetryPolicy
from ..store import Store
from ..telemetry import TELEMETRY, Telemetry
from ..worker import Worker
from .envelope import plain_type
from .handlers import ANY_BODY, ANY_RAW, EventRegistry
from .stats import ConsumerStatus, Observed
from .validation import Validator, check_validator, ensure_valid

F = TypeVar("F", bound=Callable[..., Any])


class EventConsumer:
    """Handles the events of ``stream`` as ``group``; each group gets every event, its consumers share them.

    ``retry_attempts``: executions in total, with ``retry_delay`` seconds before the second, twice as many before the
    next, up to ``max_retry_delay``; or ``retry``, a policy. ``dead_letter_stream``: where the dead are, where the broker
    lets one choose; ``<stream>-dlq`` is accepted everywhere. ``auto_ack``: when a handler returns, its event is acked;
    without it ``header.ack()`` has to be called. ``max_pending``: events in hand at once. ``batch_size``: events of one
    read, which waits ``block`` seconds. ``validator``: judges bodies before any handler; what it refuses is a dead letter. ``idempotency``: a store,
    or ``deduplicated``: an event with a header id that is done is acked and does not run again. ``start``: where a new
    group begins. ``concurrency``: handlers at once.
    """

    def __init__(  # noqa: PLR0913 what users say about a consumer, by keyword
        self,
        broker: Broker[Any],
        *,
        stream: str,
        group: str,
        concurrency: int = 10,
        retry_attempts: int = 3,
        retry_delay: float = 1.0,
        max_retry_delay: float = 30.0,
        retry: RetryPolicy | None = None,
        dead_letter_stream: str | None = None,
        auto_ack: bool = True,
        max_pending: int | None = None,
        batch_size: int = 1000,
        block: float = 2.0,
        validator: Validator | None = None,
        idempotency: Store | Deduplicate | None = None,
        middleware: Sequence[ConsumeMiddleware] = (),
        start: Literal["first", "next"] = "first",
        timeout: float | None = None,
        ordered: bool = False,
        claim: Claim | None = None,
        limits: Limits | None = None,
        drain: float = 25.0,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        at_least_one("retry_attempts, the executions in total,", retry_attempts)
        positive("block, in seconds,", block)
        check_validator(validator)
        self._clock, self._stream, self._group = clock, stream, group
        self._observed = Observed()
        self._registry = EventRegistry(self._observed, clock, auto_ack=auto_ack)
        self._broker = _speaking(broker, stream, dead_letter_stream)
        self._owned = self._broker is not broker
        backoff = Exponential(base=_seconds(retry_delay), cap=_seconds(max_retry_delay))
        self.consumer: Consumer[Any] = Consumer(
            self._broker,
            stream,
            bytes,
            _nothing,
            group=group,
            concurrency=concurrency,
            retry=retry or RetryPolicy(max_attempts=retry_attempts, backoff=backoff),
            timeout=timeout,
            ordered=ordered,
            codec=ANY_RAW,
            middleware=_layers(idempotency, validator, middleware, self._poisonous),
            claim=claim,
            options=Options(
                prefetch=Prefetch(most=batch_size, wait=block, held=max_pending),
                limits=limits or Limits(),
                start=start,
                refused=self._refused,
                registry=self._registry,
            ),
        )
        self.worker = Worker(self.consumer, drain=drain, clock=clock, telemetry=telemetry)

    def on(self, pattern: Pattern, payload_type: Any = None) -> Callable[[F], F]:
        """Decorator: handle the events of a type, a pattern such as ``user.*`` or ``*``, or a regular expression.

        The handler takes ``(body)`` or ``(body, header)``; the body is of the type of its first parameter, or of
        ``payload_type``. A plain function runs in a thread.
        """

        def register(handler: F) -> F:
            self.add_handler(pattern, handler, payload_type)
            return handler

        return register

    def add_handler(self, pattern: Pattern, handler: Callable[..., Any], payload_type: Any = None) -> None:
        """The same for a handler at hand. May be called at any time."""
        self._registry.on(pattern, handler, payload_type)

    def remove_handler(self, pattern: Pattern | re.Pattern[str]) -> bool:
        """Handle these events no more; false if nobody did."""
        return self._registry.off(pattern)

    @property
    def patterns(self) -> tuple[str, ...]:
        """What there are handlers for."""
        return self._registry.types

    @property
    def ready(self) -> bool:
        """Whether it is started and the broker answers."""
        return self.worker.ready

    async def listen(self) -> None:
        """Start; returns when the group is there and events are being read. Raises ``ConnectionFailed``."""
        await self.worker.start()

    async def run(self) -> None:
        """Start, serve until SIGTERM or ``shut_down``, stop."""
        await self.worker.run()

    def shut_down(self) -> None:
        """Ask ``run`` to come to its end."""
        self.worker.shut_down()

    async def pause(self) -> None:
        """Fetch nothing, until ``resume``."""
        await self.worker.pause()

    async def resume(self) -> None:
        """Go on."""
        await self.worker.resume()

    async def close(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 running out of it is no error
        """Stop reading, finish what runs within ``timeout`` seconds, give back the rest. True if nothing was cut off."""
        clean = await self.worker.stop(timeout)
        if self._owned:
            await self._broker.close()
        return clean

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def status(self) -> ConsumerStatus:
        """How it is, with what the broker says of its group. Raises nothing: not being connected is an answer."""
        seen, counters = self._observed, self.consumer.counters
        pending, lag, connected = await self._ask()
        return ConsumerStatus(
            is_connected=connected,
            pending_messages=pending,
            lag=lag,
            last_processed_id=seen.last_id,
            error_count=seen.failed + seen.poison,
            retry_count=counters.retried,
            dead_letter_count=counters.dead,
            total_messages_received=counters.fetched,
            by_type=seen.types.view(),
            by_topic={self._stream: counters.fetched},
            failed_messages=seen.failed,
            poison_messages=seen.poison,
            unhandled=seen.unhandled,
            average_processing_time=seen.seconds / seen.received if seen.received else 0.0,
            last_message_time=seen.last_time,
            last_error=seen.last_error,
            last_error_time=seen.last_error_time,
        )

    async def _ask(self) -> tuple[int | None, int | None, bool]:
        """What the group has pending and before it, and whether the broker answers."""
        apart = self._owned and not self.consumer.running  # who only asks disturbs no start and leaves nothing open
        asked: Broker[Any] = self._broker.fork() if apart else self._broker
        try:
            await asked.open()
            if not isinstance(asked, SupportsInspect):
                return self.consumer.in_flight, None, True
            stats = await asked.stats(self._stream)
        except BrokerError:
            return None, None, False
        finally:
            if apart:
                await asked.close()
        group = next((each for each in stats.groups if each.name == self._group), None)
        return (0, None, True) if group is None else (group.leased, group.lag, True)

    def _refused(self, delivery: Delivery[Any], letter: DeadLetter) -> None:
        """An event became a dead letter without having reached a handler."""
        self._poisonous(letter.error)

    def _poisonous(self, error: BaseException | None) -> None:
        self._observed.poison += 1
        self._observed.note(error, self._clock.time())


def deduplicated(
    store: Store,
    *,
    by: Literal["id", "hash"] = "id",
    pending: float = 300.0,
    done: float = 86_400.0,
    clock: Clock = SYSTEM_CLOCK,
) -> Deduplicate:
    """Idempotency by the id of an event, or by its hash and type.

    By hash two events that say the same are one, though they may have happened twice.
    """
    one_of("by", by, ("id", "hash"))
    return Deduplicate(store, pending=pending, done=done, key=_by_id if by == "id" else _by_hash, clock=clock)


def _by_id(context: Context) -> str | None:
    ident = context.headers.get("id")
    return ident if isinstance(ident, str) and ident else None


def _by_hash(context: Context) -> str | None:
    digest = context.headers.get("hash")
    return f"{context.type}:{digest}" if isinstance(digest, str) and digest else None


class _Validating:
    """Middleware: what the validator refuses never reaches a handler."""

    def __init__(self, validator: Validator, note: Callable[[Exception], None]) -> None:
        self._validator, self._note = validator, note

    async def __call__(self, envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Any]) -> Outcome:
        body, text = envelope.payload, None
        try:
            if type(body) is bytes:  # nobody handles it, so that it has not been read
                body, text = ANY_BODY.decode(body), body
            await ensure_valid(self._validator, plain_type(envelope.message), body, text)
        except (DecodeError, ValidationError) as error:
            self._note(error)
            return DeadLetter("invalid", error)
        outcome: Outcome = await call_next(envelope)
        return outcome


def _layers(
    idempotency: Store | Deduplicate | None,
    validator: Validator | None,
    middleware: Sequence[ConsumeMiddleware],
    note: Callable[[Exception], None],
) -> tuple[ConsumeMiddleware, ...]:
    layers: list[ConsumeMiddleware] = [*middleware]
    if idempotency is not None:
        layers.append(idempotency if isinstance(idempotency, Deduplicate) else deduplicated(idempotency))
    if validator is not None:
        layers.append(_Validating(validator, note))
    return tuple(layers)


def _speaking(broker: Broker[Any], stream: str, dead: str | None) -> Broker[Any]:
    """The broker in the events' dialect, where there is one."""
    given: Any = broker
    if isinstance(given, str):
        raise ConfigurationError(f"a consumer needs a broker, got a text; write open_broker({given!r})")
    letters: Any = dead
    if letters is not None and (not isinstance(letters, str) or letters in {"", stream}):
        raise ConfigurationError(
            f"dead_letter_stream names a stream other than {stream!r}, which its dead letters would come back to; got"
            f" {letters!r:.100}. Leave it out for {stream}-dlq"
        )
    if isinstance(broker, SupportsDialect):
        return broker.speaking("events", dead_letters={stream: dead} if dead else None)
    if dead not in {None, f"{stream}-dlq"}:
        raise UnsupportedFeature(
            f"{broker.url} keeps dead letters in a place of its own, not in {dead!r}: leave dead_letter_stream out, and"
            f" look at them with the inspector or `penstock dlq peek {stream}`"
        )
    return broker


def _seconds(value: float) -> float:
    not_negative("retry_delay and max_retry_delay, in seconds,", value)
    return value


async def _nothing(_: Any) -> None:
    """The engine asks for a handler; events find theirs in the registry."""
