"""Turning one delivery into one outcome. No broker I/O happens here, and nothing that a handler does gets out.

1. What the driver could not read, what killed its workers too often, what is too large, what nobody handles and what
   does not decode is dead-lettered (an unknown type only after a grace, so that a rolling deploy is safe).
2. The middleware runs, and inside it the handler: a coroutine function here, a plain function in a thread.
3. ``None`` is ``Ack``; an exception goes to the retry policy; a wish to retry is held against its limit; anything
   that is no outcome is dead-lettered, the work being done but the contract broken.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from .checks import at_least_one, not_negative
from .clock import SYSTEM_CLOCK, Clock
from .context import Context, enter
from .deadlines import EXPIRES_AT, Deadlines, Watch, has_expired, limit
from .effects import Effects
from .errors import (
    DecodeError,
    HandlerError,
    PayloadTooLarge,
    UnknownType,
    ValidationError,
    WrongReturn,
)
from .ledger import Counters
from .message import Delivery, Envelope
from .outcome import ACK, COMMITTED, DISCARDED, Ack, DeadLetter, Outcome, Release, Retry
from .pipeline import ConsumeMiddleware, compose
from .registry import Registry, Route
from .retry import RetryPolicy
from .threads import Threads

logger = logging.getLogger("penstock")

UNKNOWN_TYPE_PAUSE = 5.0  # seconds between two looks at a message whose type nobody here knows yet


Expired: TypeAlias = Literal["dead_letter", "discard", "run"]  # what becomes of a message whose time is over
Refused: TypeAlias = Callable[[Delivery[Any], DeadLetter], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a consumer accepts. ``max_body``: bytes of one body.

    ``max_crashes``: owners that may die with a message before it is dead-lettered as ``poison``, beside the limit of
    attempts. ``unknown_type_grace``: seconds since it was enqueued during which a message of an unknown type is handed back, for
    a newer worker to take, before it is dead-lettered.
    """

    max_body: int = 8 * 1024 * 1024
    unknown_type_grace: float = 60.0
    max_crashes: int | None = None

    def __post_init__(self) -> None:
        if self.max_crashes is not None:
            at_least_one("max_crashes", self.max_crashes)
        at_least_one("max_body, in bytes,", self.max_body)
        not_negative("unknown_type_grace, in seconds,", self.unknown_type_grace)


@dataclass(slots=True, kw_only=True)
class Executor:
    """Everything that a delivery needs on its way to an outcome. One per consumer."""

    registry: Registry
    policy: RetryPolicy
    identity: str = ""
    middleware: Sequence[ConsumeMiddleware] = ()
    limits: Limits = field(default_factory=Limits)
    clock: Clock = SYSTEM_CLOCK
    threads: Threads | None = None
    timeout: float | None = None
    expired: Expired = "dead_letter"
    refused: Refused | None = None
    counters: Counters = field(default_factory=Counters)
    effects: Effects | None = None
    deadlines: Deadlines = field(init=False)
    _plain: bool = field(default=False, init=False)
    _call: Callable[[Envelope[Any]], Awaitable[Outcome]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.deadlines = Deadlines(self.clock)
        self._plain = not self.middleware and self.timeout is None
        if self.middleware:
            self._call = compose(self.middleware, self._handle)

    def context(self, delivery: Delivery[Any]) -> Context:
        """The context that the delivery's handler will see."""
        message = delivery.message
        return Context(
            id=message.id,
            type=message.type,
            stream=delivery.source,
            group=delivery.group,
            worker=self.identity,
            attempt=message.attempt + delivery.count - 1,
            max_attempts=self.policy.max_attempts,
            key=message.key,
            headers=message.headers,
            enqueued_at=message.enqueued_at,
            unit=None if self.effects is None else self.effects.of(delivery),
        )

    async def execute(self, delivery: Delivery[Any], context: Context) -> Outcome:
        """The outcome of one delivery. Raises nothing but ``CancelledError`` when the slot itself is cancelled."""
        message = delivery.message
        route = self.registry.resolve(message.type)
        doubtful = delivery.count > 1 or message.headers or delivery.defect
        if doubtful or route is None or len(message.body) > self.limits.max_body:
            refusal = self._refuse(delivery, route)
            if refusal is not None or route is None:
                return self._told(delivery, refusal or Release(UNKNOWN_TYPE_PAUSE))
        try:
            payload = route.codec.decode(message.body)
        except BaseException as error:  # noqa: BLE001 a codec of the user's may raise anything
            return self._told(delivery, _undecoded(error))
        enter(context)
        try:
            if self._plain and not route.threaded and not message.headers:
                result = await (route.call(payload, context) if route.wants_context else route.call(payload))
            elif self._call is None:
                result = await self._run(route, payload, context)
            else:
                result = await self._call(Envelope(payload=payload, message=message, context=context))
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            return self._failed(context, error)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 whatever a handler raises is the policy's: a panic, an exit
            return self._failed(context, error)
        return ACK if result is None and context.unit is None else self._accept(context, result)

    def admit(self, delivery: Delivery[Any]) -> tuple[Route, Any] | Outcome:
        """The handler of a delivery and its payload, or the outcome of what must not reach one.

        The first half of ``execute``, which has it inline: a call for each message would be seen there.
        """
        message = delivery.message
        route = self.registry.resolve(message.type)
        refusal = self._refuse(delivery, route)
        if refusal is not None or route is None:
            return self._told(delivery, refusal or Release(UNKNOWN_TYPE_PAUSE))
        try:
            return route, route.codec.decode(message.body)
        except BaseException as error:  # noqa: BLE001 a codec of the user's may raise anything
            return self._told(delivery, _undecoded(error))

    def _told(self, delivery: Delivery[Any], outcome: Outcome) -> Outcome:
        """Tell whoever wants to know of what did not run and is dead."""
        if self.refused is not None and isinstance(outcome, DeadLetter):
            try:
                self.refused(delivery, outcome)
            except Exception:
                logger.exception("the listener for refused messages failed")
        return outcome

    async def _handle(self, envelope: Envelope[Any]) -> Outcome:
        """The innermost layer of the onion."""
        route = self.registry.resolve(envelope.message.type)
        if route is None:  # a middleware has changed the type
            raise UnknownType(f"no handler for type {envelope.message.type!r}")
        result = await self._run(route, envelope.payload, envelope.context)
        return ACK if result is None else result

    async def _run(self, route: Route, payload: Any, context: Context) -> Any:
        """Call the handler, under its deadline if it has one: the middleware's own time does not count."""
        arguments = (payload, context) if route.wants_context else (payload,)
        seconds = limit(self.timeout, context.headers) if context.headers else self.timeout
        if seconds is None:
            return await self._called(route, arguments)
        if route.threaded:
            with Watch(self.deadlines, seconds, (context,), None):
                return await self._called(route, arguments)
        with Watch(self.deadlines, seconds, (context,), asyncio.current_task()):
            return await route.call(*arguments)

    async def _called(self, route: Route, arguments: tuple[Any, ...]) -> Any:
        if not route.threaded:
            return await route.call(*arguments)
        run = partial(contextvars.copy_context().run, _called, route.call, *arguments)
        result = await asyncio.get_running_loop().run_in_executor(self.threads, run)
        return await result if asyncio.iscoroutine(result) else result  # a plain wrapper of a coroutine function

    def _refuse(self, delivery: Delivery[Any], route: Route | None) -> Outcome | None:
        """The outcome of what must not reach a handler; ``None`` for what may."""
        message = delivery.message
        if delivery.defect:
            return DeadLetter("undecodable", DecodeError(delivery.defect))
        if self.expired != "run" and has_expired(message.headers, self.clock.time()):
            return self._expired(delivery)
        if delivery.count > 1 and self._is_poison(delivery):
            return DeadLetter("poison", meta=crashes(delivery))
        if len(message.body) > self.limits.max_body:
            text = f"the body has {len(message.body)} bytes, this consumer accepts {self.limits.max_body}"
            return DeadLetter("tooLarge", PayloadTooLarge(text))
        if route is None:
            age = self.clock.time() - (message.enqueued_at or 0.0)
            if age < self.limits.unknown_type_grace:
                return Release(UNKNOWN_TYPE_PAUSE)
            known = ", ".join(self.registry.types)
            return DeadLetter("unknownType", UnknownType(f"no handler for type {message.type!r}; there are: {known}"))
        return None

    def _is_poison(self, delivery: Delivery[Any]) -> bool:
        """Whether too many owners died with it."""
        most = self.limits.max_crashes
        return delivery.attempt >= self.policy.max_attempts or (most is not None and delivery.count > most)

    def _expired(self, delivery: Delivery[Any]) -> Outcome:
        """What becomes of a message whose time is over."""
        message = delivery.message
        if self.expired == "dead_letter":
            return DeadLetter("expired", meta={EXPIRES_AT: message.headers[EXPIRES_AT]})
        self.counters.discarded += 1
        logger.info("discarded: expired", extra={"stream": delivery.source, "type": message.type, "id": message.id})
        return DISCARDED

    def _accept(self, context: Context, result: Any) -> Outcome:
        """Hold what the handler returned against the contract; what cannot even be looked at is a failure like any.

        What wraps a handler may turn its exception into an outcome: then an acknowledgement that was written is not
        known to be committed. Settling asks the broker, which refuses if it was.
        """
        if context.unit is not None and context.unit.written:
            if result is None or isinstance(result, Ack) or context.unit.committed:
                return COMMITTED
            context.unit.undone()
        if result is None:
            return ACK
        try:
            return self._held_against_the_contract(context, result)
        except Exception as error:  # noqa: BLE001 a value of the user's may raise anything
            return self._failed(context, error)

    def _held_against_the_contract(self, context: Context, result: Any) -> Outcome:
        if isinstance(result, Ack) or (isinstance(result, Release) and _is_wait(result.delay)):
            return result
        if isinstance(result, DeadLetter):
            return _writable(result)
        if isinstance(result, Retry) and (result.delay is None or _is_wait(result.delay)):
            wish = result if result.error is None else replace(result, error=_sound(result.error))
            return self._decided(context, lambda policy: policy.again(context.attempt, wish))
        delay = f" with the delay {result.delay!r:.100}" if isinstance(result, Retry | Release) else ""
        text = (
            f"the handler of {context.type!r} returned {type(result).__name__}{delay};"
            " expected None, Ack(), Retry(seconds), DeadLetter(reason) or Release(seconds)"
        )
        return DeadLetter("wrongReturn", WrongReturn(text))

    def _failed(self, context: Context, error: BaseException) -> Outcome:
        if context.unit is not None:
            if context.unit.committed:
                logger.error("failed after its transaction was committed", exc_info=error, extra=context.fields())
                return COMMITTED
            context.unit.undone()
        sound = _sound(error)
        return self._decided(context, lambda policy: policy.decide(context.attempt, sound))

    def _decided(self, context: Context, ask: Callable[[RetryPolicy], Retry | DeadLetter]) -> Outcome:
        """Ask the policy; one that fails itself, or names no number of seconds, does not cost the message."""
        try:
            outcome = ask(self.policy)
        except Exception:
            logger.exception("the retry policy failed; using the default backoff", extra=context.fields())
        else:
            if isinstance(outcome, DeadLetter) or _is_wait(outcome.delay):
                return outcome
            text = "a backoff must answer a number of seconds, not %r; using the default backoff"
            logger.error(text, outcome.delay, extra=context.fields())
        return ask(RetryPolicy(max_attempts=self.policy.max_attempts))


def _undecoded(error: BaseException) -> DeadLetter:
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    return DeadLetter("invalid" if isinstance(error, ValidationError) else "undecodable", error)


def crashes(delivery: Delivery[Any]) -> dict[str, Any]:
    """What is known of the crashes of a message, for who looks at its dead letter."""
    known: dict[str, Any] = {"deliveries": delivery.count, "attempts": delivery.attempt}
    last = delivery.predecessor
    return known if last is None else {**known, "lastOwner": last.owner, "silentSeconds": round(last.silent, 3)}


def _called(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a plain function. No future can carry a ``StopIteration``: whoever waits for it would wait for ever."""
    try:
        return call(*arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


def _is_wait(delay: Any) -> bool:
    """Whether it is a number of seconds; a negative one means at once."""
    return isinstance(delay, int | float) and math.isfinite(delay)


def _sound(error: Any) -> BaseException:
    """An exception that can say what it is, whatever a handler came up with."""
    if not isinstance(error, BaseException):
        return HandlerError(f"{error!r:.2000}")
    try:
        str(error)
    except Exception as broken:  # noqa: BLE001 its own __str__ may raise anything
        return HandlerError(f"{type(error).__name__}, whose text cannot be had: {type(broken).__name__}")
    return error


def _writable(letter: DeadLetter) -> DeadLetter:
    """What cannot be written as it is must not cost the dead letter: its text is kept."""
    reason: Any = letter.reason
    if not isinstance(reason, str):
        letter = replace(letter, reason=repr(reason)[:2000])
    elif not reason.isascii():  # half a surrogate pair is no text anywhere
        letter = replace(letter, reason=reason.encode("utf-8", "backslashreplace").decode())
    if letter.error is not None:
        letter = replace(letter, error=_sound(letter.error))
    if letter.meta is UNSET:
        return letter
    try:
        msgspec.json.encode(letter.meta)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return replace(letter, meta=repr(letter.meta)[:2000])
    return letter


def cancelled_from_outside() -> bool:
    """Whether somebody cancelled this very task, as opposed to a handler that let a cancellation escape."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
