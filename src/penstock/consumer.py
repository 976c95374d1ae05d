"""Consumer[T]: the typed read side of one destination, and what makes it run.

It only wires parts together: the intake fetches into the ledger, the slots run what is in it through the executor,
the settler writes the outcomes, the services recover what others left. A ``Worker`` starts and stops consumers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

from .broker import Broker, Subscription, SupportsReclaim, SupportsSchedule, SupportsTrim
from .clock import Clock, wait_until
from .codec import Codec
from .codecs import codec_for
from .errors import ConfigurationError, UnsupportedFeature
from .executor import Executor, Limits
from .intake import Intake, Prefetch
from .ledger import Counters, Ledger
from .message import Delivery
from .outage import OutageLog
from .pipeline import ConsumeMiddleware
from .registry import Handler, Registry
from .retry import RetryPolicy
from .services import Service
from .services.leases import LeaseKeeper
from .services.pruner import Pruner
from .services.reclaimer import Reclaimer
from .services.scheduler import Scheduler
from .settling import Settler
from .slots import Slots
from .telemetry import Telemetry

T = TypeVar("T")

SETTLE_GRACE = 5.0  # seconds that a stopping consumer waits for its last outcomes to be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Recovery of what dead workers left. ``min_idle`` is the lease, in seconds: a message whose owner has not renewed
    it for so long is taken over. ``max_per_tick`` messages every ``interval`` seconds.
    """

    min_idle: float = 30.0
    max_per_tick: int = 128
    interval: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What rarely needs to be said about a consumer.

    ``start``: where a new group begins. ``delayed``: name of the structure that holds retries, where the broker lets
    one choose. ``threads``: most plain-function handlers at once, by default the consumer's concurrency.
    """

    prefetch: Prefetch = field(default_factory=Prefetch)
    limits: Limits = field(default_factory=Limits)
    start: Literal["first", "next"] = "first"
    delayed: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker lends its consumers."""

    clock: Clock
    dice: random.Random
    telemetry: Telemetry


class Consumer(Generic[T]):
    """Reads ``stream`` as ``group`` and runs ``handler`` for each message, ``concurrency`` at a time.

    ``payload_type``: a msgspec Struct, pydantic model, dataclass, TypedDict or ``dict``; what does not fit is
    dead-lettered. ``handler``: ``async def handle(payload)`` or ``(payload, context)``; a plain function runs in a
    thread. ``types``: the message types it is for, all by default; ``handle`` adds handlers for more.
    ``middleware``: around every handler, first outermost. Raises ``ConfigurationError``, ``UnsupportedFeature``.
    """

    def __init__(  # noqa: PLR0913 what users say about a consumer, by keyword
        self,
        broker: Broker[Any],
        stream: str,
        payload_type: type[T],
        handler: Callable[[T], Any] | Callable[[T, Any], Any],
        *,
        group: str = "default",
        concurrency: int = 10,
        retry: RetryPolicy | None = None,
        types: str | Iterable[str] | None = None,
        codec: Codec[T] | None = None,
        middleware: Sequence[ConsumeMiddleware] = (),
        claim: Claim | None = None,
        options: Options | None = None,
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"concurrency is the number of handlers at once and at least 1, got {concurrency}")
        if not stream or not group:
            raise ConfigurationError(f"stream and group need names, got {stream!r} and {group!r}")
        self.broker = broker
        self.concurrency = concurrency
        self.options = options or Options()
        self.claim = claim or Claim()
        if self.claim.min_idle <= 0:
            raise ConfigurationError(f"min_idle is the lease in seconds and more than 0, got {self.claim.min_idle}")
        self.policy = retry or RetryPolicy()
        self.subscription = Subscription(
            source=stream,
            group=group,
            lease=self.claim.min_idle,
            start=self.options.start,
            delayed=self.options.delayed,
        )
        if self.policy.max_attempts > 1 and not broker.capabilities.max_delay:
            raise UnsupportedFeature(f"{broker.url} cannot delay retries; use RetryPolicy(max_attempts=1)")
        self._registry = Registry()
        self._middleware = tuple(middleware)
        self._running: Running | None = None
        self._counters = Counters()
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
        self._registry.add(cast("Handler", handler), codec or codec_for(payload_type), names)

    @property
    def name(self) -> str:
        """``stream/group``, for people."""
        return f"{self.subscription.source}/{self.subscription.group}"

    @property
    def counters(self) -> Counters:
        """Totals since the last start."""
        return self._counters

    @property
    def running(self) -> Running | None:
        """The machinery while it is started."""
        return self._running

    @property
    def in_flight(self) -> int:
        """Handlers running now."""
        return self._running.slots.running if self._running else 0

    async def start(self, surroundings: Surroundings) -> None:
        """Open the broker and begin. Called by the worker. Raises ``ConnectionFailed``, ``AccessDenied``."""
        if self._running is not None:
            return
        await self.broker.open()
        self._running = Running(self, self._registry, self._middleware, surroundings)
        self._counters = self._running.ledger.counters
        self._running.start()

    async def quiet(self) -> None:
        """Fetch no more; what is held goes on."""
        if self._running is not None:
            await self._running.quiet()

    def interrupt(self) -> None:
        """Make a stop that is under way wait no longer."""
        if self._running is not None:
            self._running.hurry.set()

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109 running out of it is no error
        """Give back what has not begun, finish the rest within ``timeout`` seconds, release what is left.

        True if nothing had to be interrupted. No handler runs after it has returned (but a plain function, which
        cannot be interrupted, may still be in its thread).
        """
        running = self._running
        if running is None:
            return True
        try:
            return await running.stop(timeout)
        finally:
            self._running = None


class Running:
    """The machinery of a started consumer."""

    def __init__(
        self,
        consumer: Consumer[Any],
        registry: Registry,
        middleware: Sequence[ConsumeMiddleware],
        around: Surroundings,
    ) -> None:
        broker, subscription, options = consumer.broker, consumer.subscription, consumer.options
        self._consumer, self._around, self._options = consumer, around, options
        self._threads: ThreadPoolExecutor | None = None
        if registry.threaded:
            most = options.threads or consumer.concurrency
            self._threads = ThreadPoolExecutor(most, thread_name_prefix=f"penstock-{consumer.name}")
        self.ledger = Ledger(consumer.policy.max_attempts)
        executor = Executor(
            registry=registry,
            policy=consumer.policy,
            middleware=middleware,
            limits=options.limits,
            clock=around.clock,
            threads=self._threads,
        )
        self.slots = Slots(self.ledger, executor, consumer.concurrency, around.clock, around.telemetry)
        self.intake = Intake(
            broker,
            subscription,
            self.ledger,
            self.accept,
            slots=consumer.concurrency,
            prefetch=options.prefetch,
            clock=around.clock,
            outage=self._outage("intake"),
        )
        self._settler = Settler(broker, self.ledger, around.clock, around.telemetry, self._outage("settler"))
        self._intake_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.hurry = asyncio.Event()

    def start(self) -> None:
        """Start every part."""
        self.slots.start()
        self._tasks = [self._task(self._settler.run(), "settler")]
        self._intake_task = self._task(self.intake.run(), "intake")

    def accept(self, deliveries: Sequence[Delivery[Any]]) -> None:
        """Take deliveries in and wake a slot."""
        self.ledger.add(deliveries)
        self.slots.wake()

    def services(self) -> list[Service]:
        """The roles that this consumer's broker needs, and that belong to its subscription."""
        broker, subscription, claim = self._consumer.broker, self._consumer.subscription, self._consumer.claim
        telemetry = self._around.telemetry
        found: list[Service] = []
        if isinstance(broker, SupportsSchedule):
            found.append(Scheduler(broker, subscription.source, telemetry, delayed=subscription.delayed))
        if isinstance(broker, SupportsReclaim):
            found.append(
                Reclaimer(
                    broker,
                    subscription,
                    self.ledger,
                    self.accept,
                    self.intake.room,
                    telemetry,
                    interval=claim.interval,
                    most=claim.max_per_tick,
                )
            )
        if isinstance(broker, SupportsTrim):
            found.append(Pruner(broker, subscription))
        return found

    def keeper(self) -> LeaseKeeper:
        """What renews this consumer's leases; ``lost`` may be called from another thread."""
        loop, ledger = asyncio.get_running_loop(), self.ledger

        def lost(delivery: Delivery[Any]) -> None:
            context = ledger.contexts.get(delivery.message.id)
            if context is not None and delivery.message.id not in ledger.settling:
                context.lease_lost = True
            loop.call_soon_threadsafe(self._settler.lost_by_keeper, delivery)

        def held() -> list[Delivery[Any]]:
            return list(ledger.held.values())

        consumer = self._consumer
        return LeaseKeeper(consumer.broker, consumer.subscription.source, consumer.subscription.lease, held, lost)

    async def quiet(self) -> None:
        """Stop the intake, wherever it is; a cancelled fetch loses nothing."""
        if self._intake_task is not None:
            self._intake_task.cancel()
            await asyncio.gather(self._intake_task, return_exceptions=True)
            self._intake_task = None

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109 see Consumer.stop
        """See ``Consumer.stop``."""
        await self.quiet()
        for context in list(self.ledger.contexts.values()):
            context.stopping = True
        self.ledger.release_waiting()
        clean = await self._drained(timeout)
        await self.slots.stop()
        await wait_until(self.ledger.idle, self._around.clock, SETTLE_GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        return clean

    async def _drained(self, timeout: float) -> bool:  # noqa: ASYNC109 see Consumer.stop
        """Whether everything came to its end in time and in peace."""
        drained = asyncio.create_task(wait_until(self.ledger.idle, self._around.clock, timeout))
        hurried = asyncio.create_task(self.hurry.wait())
        await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        hurried.cancel()
        await asyncio.gather(drained, hurried, return_exceptions=True)
        return self.ledger.idle.is_set()

    @property
    def healthy(self) -> bool:
        """Whether the broker answered the last fetch."""
        return self.intake.answered_at is not None and not self.intake.down

    def _outage(self, role: str) -> OutageLog:
        around = self._around
        return OutageLog(role, self._consumer.subscription.source, around.clock, around.dice, around.telemetry)

    def _task(self, work: Coroutine[Any, Any, None], role: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"{role} {self._consumer.name}")
