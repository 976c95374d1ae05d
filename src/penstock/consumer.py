"""Consumer[T]: the typed read side of one destination. A ``Worker`` starts and stops consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from .audit import Audit
from .batches import Batch
from .broker import Broker, Subscription
from .checks import at_least_one, instance, one_of, positive
from .codec import Codec
from .codecs import codec_for
from .context import Context
from .errors import ConfigurationError, ConnectionFailed, UnsupportedFeature
from .ledger import Counters
from .pipeline import ConsumeMiddleware
from .plan import Claim, Options, Plan
from .queues import Queues
from .registry import Handler, Registry
from .retry import RetryPolicy
from .running import Running, Surroundings
from .sharding import shard_names
from .turns import each_queue

T = TypeVar("T")
Ordered: TypeAlias = bool | Literal["everywhere"]


class Consumer(Generic[T]):
    """Reads ``stream``, or several ``Queues``, as ``group`` and runs ``handler`` for each message, ``concurrency`` at a time.

    ``payload_type``: a msgspec Struct, pydantic model, dataclass, TypedDict or ``dict``; what does not fit is
    dead-lettered. ``handler``: ``async def handle(payload)`` or ``(payload, context)``; a plain function runs in a
    thread. ``shards``: streams that ``stream`` is spread over, as its producers say; the slots are divided
    among them. ``types``: the message types it is for, all by default; ``handle`` adds handlers for more.
    ``timeout``: seconds that one execution may take. ``ordered``: messages with the same key run one at a time, in
    order: with ``True`` within this consumer, ``"everywhere"`` across all workers, where the broker can. ``batch``: the
    handler takes lists of payloads, and of contexts. ``middleware``: around every handler, first outermost. ``archive``:
    where a row of each terminal outcome is kept. Raises ``ConfigurationError``, ``UnsupportedFeature``.
    """

    @overload
    def __init__(
        self,
        broker: Broker[Any],
        stream: str | Queues,
        payload_type: type[T],
        handler: Callable[[T], Any] | Callable[[T, Any], Any],
        *,
        group: str = "default",
        concurrency: int = 10,
        shards: int = 1,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        ordered: Ordered = False,
        batch: None = None,
        types: str | Iterable[str] | None = None,
        codec: Codec[T] | None = None,
        middleware: Sequence[ConsumeMiddleware] = (),
        claim: Claim | None = None,
        options: Options | None = None,
        archive: Audit | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        broker: Broker[Any],
        stream: str | Queues,
        payload_type: type[T],
        handler: Callable[[list[T]], Any] | Callable[[list[T], list[Context]], Any],
        *,
        batch: Batch,
        group: str = "default",
        concurrency: int = 10,
        shards: int = 1,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        ordered: Literal[False, "everywhere"] = False,
        types: str | Iterable[str] | None = None,
        codec: Codec[T] | None = None,
        claim: Claim | None = None,
        options: Options | None = None,
        archive: Audit | None = None,
    ) -> None: ...

    def __init__(  # noqa: PLR0913 what users say about a consumer, by keyword
        self,
        broker: Broker[Any],
        stream: str | Queues,
        payload_type: type[T],
        handler: Callable[..., Any],
        *,
        group: str = "default",
        concurrency: int = 10,
        shards: int = 1,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        ordered: Ordered = False,
        batch: Batch | None = None,
        types: str | Iterable[str] | None = None,
        codec: Codec[T] | None = None,
        middleware: Sequence[ConsumeMiddleware] = (),
        claim: Claim | None = None,
        options: Options | None = None,
        archive: Audit | None = None,
    ) -> None:
        _check_parts(broker, handler)
        at_least_one("concurrency, the handlers at once,", concurrency)
        _check_names(stream, group, shards)
        claim, options, policy = claim or Claim(), options or Options(), retry or RetryPolicy()
        instance("retry", policy, RetryPolicy, f"write RetryPolicy(max_attempts={policy!r:.20})")
        instance("claim", claim, Claim)
        instance("options", options, Options)
        if shards > 1 and options.delayed is not None:
            raise ConfigurationError("several shards cannot share one set of delayed messages: leave delayed= out")
        keyed = _check_keyed(broker, ordered)
        within = bool(ordered) and not keyed
        _check_terms(timeout, batch, middleware, ordered=within)
        if policy.max_attempts > 1 and not broker.capabilities.max_delay:
            raise UnsupportedFeature(f"{broker.url} cannot delay retries; use RetryPolicy(max_attempts=1)")
        self._plan = Plan(
            broker=broker,
            subscription=_subscription(stream, group, claim, options, keyed=keyed),
            registry=options.registry or Registry(),
            policy=policy,
            middleware=tuple(middleware),
            concurrency=concurrency,
            claim=claim,
            options=options,
            timeout=timeout,
            batch=batch,
            ordered=within,
            shards=shards,
            queues=stream if isinstance(stream, Queues) else None,
            archive=archive,
        )
        self._running: tuple[Running, ...] = ()
        self._counters: Sequence[Counters] = (Counters(),)
        self._held, self._shared = False, frozenset[str]()
        self.handle(handler, payload_type, types=types, codec=codec)

    def handle(
        self,
        handler: Callable[..., Any],
        payload_type: Any,
        *,
        types: str | Iterable[str] | None = None,
        codec: Codec[Any] | None = None,
    ) -> None:
        """Add a handler for more message types of the same stream (a type and its former names)."""
        names = (types,) if isinstance(types, str) else types
        self._plan.registry.add(cast("Handler", handler), codec or codec_for(payload_type), names)

    @property
    def name(self) -> str:
        """``stream/group``, for people."""
        return self._plan.name

    @property
    def broker(self) -> Broker[Any]:
        """Where it reads."""
        return self._plan.broker

    @property
    def subscription(self) -> Subscription:
        """What it reads, and on which terms. Of several shards, ``source`` is the name that they have in common."""
        return self._plan.subscription

    @property
    def archive(self) -> Audit | None:
        """Where a row of each terminal outcome is kept."""
        return self._plan.archive

    @property
    def concurrency(self) -> int:
        """Most handlers at once."""
        return self._plan.concurrency

    @property
    def counters(self) -> Counters:
        """Totals since the last start."""
        return sum(self._counters[1:], self._counters[0])

    @property
    def running(self) -> Sequence[Running]:
        """The machinery while it is started, for each shard."""
        return self._running

    @property
    def in_flight(self) -> int:
        """Handlers running now."""
        return sum(running.slots.running for running in self._running)

    async def start(self, surroundings: Surroundings) -> None:
        """Open the broker and begin. Called by the worker. Raises ``ConnectionFailed``, ``AccessDenied``."""
        if self._running:
            raise ConfigurationError(f"{self.name} is already running; a consumer belongs to one worker at a time")
        await self.join()
        self._running = tuple(Running(plan, surroundings) for plan in self._plan.lanes())
        self._counters = [running.ledger.counters for running in self._running]
        for running in self._running:
            running.leave_out(self._shared)
            running.start(self._reasons(running.source))

    async def join(self) -> None:
        """Open the broker and make the group. Raises ``ConnectionFailed``, ``AccessDenied``.

        Of several shards one that answers is enough: the others join when they can be reached.
        """
        await self.broker.open()
        lanes, away = self._plan.lanes(), list[ConnectionFailed]()
        for plan in lanes:
            try:
                for subscription in each_queue(self.broker, plan.subscription):
                    await self.broker.fetch(subscription, 0, 0.0)
            except ConnectionFailed as error:
                away.append(error)
        if len(away) == len(lanes):
            raise away[0]

    @property
    def paused(self) -> bool:
        """Whether it fetches nothing for now: paused here, or for every worker."""
        return bool(self._reasons(self.subscription.source))

    async def pause(self) -> None:
        """Fetch no more, until ``resume``: what has not begun is given back, what runs goes on. Also before the start."""
        self._held = True
        await self._hold()

    async def resume(self) -> None:
        """Go on fetching, unless the stream is paused for every worker."""
        self._held = False
        await self._hold()

    async def follow(self, paused: frozenset[str]) -> None:
        """Pause and resume as the broker says. Called by the worker, with all streams that are paused there."""
        self._shared = frozenset(paused)
        for running in self._running:
            running.leave_out(self._shared)
        await self._hold()

    async def _hold(self) -> None:
        for running in self._running:
            reasons = self._reasons(running.source)
            for reason in ("here", "everywhere"):
                await running.hold(reason, on=reason in reasons)

    def _reasons(self, source: str) -> set[str]:
        """Why a stream of this consumer is paused: a shard, or all of them by the name that they have in common."""
        queues = self.subscription.queues
        everywhere = not self._shared.isdisjoint((source, self.subscription.source)) or (
            bool(queues) and self._shared.issuperset(queues)
        )
        return {reason for reason, holds in (("here", self._held), ("everywhere", everywhere)) if holds}

    async def quiet(self) -> None:
        """Fetch no more; what is held goes on."""
        await asyncio.gather(*(running.quiet() for running in self._running))

    def interrupt(self) -> None:
        """Make a stop that is under way wait no longer."""
        for running in self._running:
            running.hurry.set()

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109 running out of it is no error
        """Give back what has not begun, finish the rest within ``timeout`` seconds, release what is left.

        True if nothing had to be interrupted. No handler runs after it has returned (but a plain function, which
        cannot be interrupted, may still be in its thread).
        """
        try:
            return all(await asyncio.gather(*(running.stop(timeout) for running in self._running)))
        finally:
            self._running = ()


def troubles(consumers: Iterable[Consumer[Any]]) -> list[str]:
    """Why any of them does no work, in words; nothing if all of them do."""
    found = ((each.name, [running.trouble for running in each.running]) for each in consumers)
    return [f"{name}: {why}" for name, whys in found for why in whys or ["not started"] if why]


def _subscription(stream: str | Queues, group: str, claim: Claim, options: Options, *, keyed: bool) -> Subscription:
    return Subscription(
        source=stream if isinstance(stream, str) else stream.name,
        group=group,
        lease=claim.min_idle,
        start=options.start,
        delayed=options.delayed,
        queues=() if isinstance(stream, str) else stream.names,
        keyed=keyed,
    )


def _check_parts(broker: Any, handler: Any) -> None:
    if isinstance(broker, str):
        raise ConfigurationError(f"a consumer needs a broker, got a text; write open_broker({broker!r})")
    if not callable(handler):
        raise ConfigurationError(f"a handler is a function of (payload) or (payload, context), got {handler!r:.100}")


def _check_names(stream: str | Queues, group: str, shards: int) -> None:
    if not stream or not group:
        raise ConfigurationError(f"stream and group need names, got {stream!r} and {group!r}")
    if isinstance(stream, str):
        shard_names(stream, shards)
        return
    if shards > 1:
        raise ConfigurationError("several queues and shards do not go together: make a Consumer for each queue")


def _check_keyed(broker: Broker[Any], ordered: Ordered) -> bool:
    """Whether the broker is to keep the order of keys, and can."""
    one_of("ordered", ordered, (True, False, "everywhere"))
    if ordered != "everywhere" or broker.capabilities.keyed:
        return ordered == "everywhere"
    raise UnsupportedFeature(
        f"{broker.url} cannot keep messages of one key in order across workers: let one process read the stream, with"
        " ordered=True, or use a broker whose capabilities have keyed"
    )


def _check_terms(
    timeout: float | None, batch: Batch | None, middleware: Sequence[ConsumeMiddleware], *, ordered: bool
) -> None:
    if timeout is not None:
        positive("timeout, in seconds,", timeout)
    if batch is None:
        return
    if ordered:
        raise ConfigurationError(
            "ordered=True and batch= do not go together: a batch may hold several messages of one key. Where the broker"
            " keeps the order itself, ordered='everywhere' does"
        )
    instance("batch", batch, Batch, f"write Batch(size={batch!r:.20})")
    if middleware:
        raise ConfigurationError(
            "middleware sees one message and its outcome, a batch handler has many: do it in the handler, or leave batch out"
        )
