"""The lanes of a manager, one for each pattern and group, and the worker that runs them.

A lane comes with its first subscription: its consumer starts reading, then the pattern is bound, so that nothing that is
published after that is missed. It goes with its last one.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

from ..bindings import SupportsBindings
from ..broker import Broker, Outgoing
from ..clock import Clock
from ..codec import Codec
from ..codecs.javascript import JavaScriptCodec
from ..consumer import Consumer
from ..context import Context, current
from ..errors import ConfigurationError, DecodeError
from ..executor import Limits
from ..intake import Prefetch
from ..message import Message
from ..plan import Claim, Options
from ..retry import RetryPolicy
from ..services import Service
from ..store import Store
from ..telemetry import Telemetry
from ..worker import Worker
from .dead_letters import Cleanup, DeadLetters
from .dedup import OncePerGroup
from .hooks import Hooks
from .lane import Lane
from .letters import LETTER, SOURCE, LetterBroker, LetterKeeper
from .message import Notification
from .options import NotificationOptions
from .subscription import NotificationSubscription, Terms
from .upkeep import BindingKeeper, Sweeper

UNLIMITED = RetryPolicy(max_attempts=2**31)  # a subscription holds its messages against its own limit

Key = tuple[str, str, str]


class Manager(Protocol):
    """What the lanes need of their manager."""

    options: NotificationOptions
    broker: Broker[Any]
    dead_letters: DeadLetters

    def store(self) -> Store:
        """Where it is remembered what was done."""
        ...


class LetterLane(Lane):
    """Reads the dead letters."""

    def note(self, payload: Any, context: Context) -> Notification:
        note = super().note(payload, context)
        why: dict[str, Any] = context.headers[LETTER]
        note.error, note.reason, note.group = why["error"], why["reason"], why["group"]
        note.headers = {name: value for name, value in context.headers.items() if name != LETTER}
        return note


class LetterCodec(JavaScriptCodec):
    """Reads whatever a dead letter holds; what is no JSON as the bytes that it is."""

    def decode(self, body: bytes) -> Any:
        try:
            return super().decode(body)
        except DecodeError:
            return body


class Lanes:
    """See the module."""

    def __init__(
        self, manager: Manager, hooks: Hooks, cleanup: Cleanup | None, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._manager, self._hooks, self._clock, self._telemetry = manager, hooks, clock, telemetry
        self._lanes: dict[Key, Lane] = {}
        self._guards: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()  # those that somebody is at
        self._hiring = asyncio.Lock()
        self._sweepers = [] if cleanup is None else [Sweeper(manager.dead_letters, cleanup, clock)]
        self._letters: LetterBroker | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self.worker: Worker | None = None
        self.stopped = self._closing = False

    @property
    def subscriptions(self) -> list[NotificationSubscription]:
        """All there are."""
        return [each for lane in self._lanes.values() for each in lane.subscriptions]

    async def enter(
        self,
        pattern: str,
        group: str,
        terms: Terms,
        codec: Codec[Any],
        start: Literal["first", "next"],
    ) -> NotificationSubscription:
        """Add a subscription to a pattern."""
        broker: Any = self._manager.broker

        def make(lane: Lane) -> Consumer[Any]:
            limits = Limits(max_crashes=terms.max_attempts)
            options = self._options(lane, limits, start)
            return self._consumer(lane, broker.source_of(pattern), codec, terms.concurrency, options)

        return await self._join("channels", Lane(broker, pattern, group, self._end), terms, make, bind=True)

    async def listen(
        self, broker: Broker[Any], pattern: str, terms: Terms, codec: Codec[Any]
    ) -> NotificationSubscription:
        """Add a subscription to Pub/Sub."""

        def make(lane: Lane) -> Consumer[Any]:
            once = RetryPolicy(max_attempts=1)
            slots = terms.concurrency
            return Consumer(broker, pattern, object, lane, group=lane.group, concurrency=slots, codec=codec, retry=once)

        lane = Lane(broker, pattern, "pubsub", self._end, lossy=True)
        return await self._join("pubsub", lane, terms, make, bind=False)

    async def read_letters(self, group: str, terms: Terms) -> NotificationSubscription:
        """Add a subscription to the dead letters."""
        if self._letters is None:
            self._letters = LetterBroker(self._manager.broker, self._manager.store(), self._clock)
        letters = self._letters

        def make(lane: Lane) -> Consumer[Any]:
            services: list[Service] = [LetterKeeper(letters), *self._sweepers]
            options = Options(services=services, expired="run")
            return Consumer(
                letters,
                SOURCE,
                object,
                lane,
                group=group,
                concurrency=1,
                codec=LetterCodec(),
                retry=UNLIMITED,
                options=options,
            )

        return await self._join("letters", LetterLane(letters, SOURCE, group, self._end), terms, make, bind=False)

    async def say(self, broker: Broker[Any], message: Message) -> list[str]:
        """Publish to who listens now."""
        return list(await broker.publish([Outgoing(destination=message.type, message=message)]))

    async def stop(self, timeout: float | None) -> None:  # noqa: ASYNC109 see NotificationManager.stop_all
        """Stop the worker, and with it all lanes."""
        self._closing = True
        async with self._hiring:  # what is being taken on is stopped too
            worker = self.worker
        if worker is not None:
            await worker.stop(timeout)
        self.stopped = True
        for each in self.subscriptions:
            each.ended = True
        self._lanes.clear()

    # ------------------------------------------------------------------------------------------------------------ lanes

    def _guard(self, key: Key) -> asyncio.Lock:
        return self._guards.setdefault(key, asyncio.Lock())

    async def _join(self, kind: str, fresh: Lane, terms: Terms, make: Any, *, bind: bool) -> NotificationSubscription:
        key = (kind, fresh.pattern, fresh.group)
        async with self._guard(key):
            lane = self._lanes.get(key)
            if lane is not None:
                _same(lane.subscriptions[0].terms, terms)
                subscription = NotificationSubscription(lane, terms, self._hooks, self._clock)
                lane.subscriptions.append(subscription)
                await lane.changed()
                return subscription
            fresh.round_robin = self._manager.options.local_round_robin
            subscription = NotificationSubscription(fresh, terms, self._hooks, self._clock)
            fresh.subscriptions.append(subscription)
            fresh.consumer = consumer = make(fresh)
            async with self._hiring:
                await self._begin(fresh, consumer, bind=bind)
                fresh.key = key
                self._lanes[key] = fresh
            return subscription

    async def _begin(self, lane: Lane, consumer: Consumer[Any], *, bind: bool) -> None:
        """Read, then bind."""
        if self._closing:
            raise ConfigurationError("the manager is being stopped; make another one")
        await self._hire(consumer)
        try:
            if bind and isinstance(lane.broker, SupportsBindings):
                await lane.broker.bind(lane.pattern, lane.group)
        except BaseException:
            await self._dismiss(consumer)
            raise

    async def _hire(self, consumer: Consumer[Any]) -> None:
        if self.worker is not None:
            await self.worker.add(consumer)
            return
        options = self._manager.options
        worker = Worker(
            consumer,
            drain=options.drain,
            scheduler=options.delayed,
            clock=self._clock,
            telemetry=self._telemetry,
        )
        await worker.start()
        self.worker = worker

    async def _dismiss(self, consumer: Consumer[Any]) -> None:
        if self.worker is not None:
            await self.worker.remove(consumer)

    async def _end(self, lane: Lane, last: NotificationSubscription, remove_pattern: bool) -> None:
        """Let a lane go. From one of its own handlers it cannot be waited for: it goes when that has ended."""
        running = current()
        leaving = asyncio.create_task(self._go(lane, last, remove_pattern=remove_pattern))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        if running is None or running.group != lane.group or not running.stream.startswith(lane.source):
            await asyncio.shield(leaving)

    async def _go(self, lane: Lane, last: NotificationSubscription, *, remove_pattern: bool) -> None:
        async with self._guard(lane.key):
            if len(lane.subscriptions) > 1:  # another one has come meanwhile
                lane.subscriptions.remove(last)
                await lane.changed()
                return
            if self._lanes.get(lane.key) is lane and lane.consumer is not None:
                await self._dismiss(lane.consumer)
                del self._lanes[lane.key]
            if remove_pattern and isinstance(lane.broker, SupportsBindings):
                await lane.broker.unbind(lane.pattern, lane.group)

    # -------------------------------------------------------------------------------------------------------- consumers

    def _consumer(
        self, lane: Lane, source: str, codec: Codec[Any], concurrency: int, options: Options
    ) -> Consumer[Any]:
        chosen = self._manager.options
        return Consumer(
            lane.broker,
            source,
            object,
            lane,
            group=lane.group,
            concurrency=concurrency,
            codec=codec,
            retry=UNLIMITED,
            claim=Claim(min_idle=chosen.lease, interval=chosen.claim_interval),
            options=options,
            middleware=[OncePerGroup(self._manager.store, lane.group, chosen.dedup_ttl, lane.wants_once, self._clock)],
        )

    def _options(self, lane: Lane, limits: Limits, start: Literal["first", "next"]) -> Options:
        services: list[Service] = []
        if isinstance(lane.broker, SupportsBindings):
            services.append(BindingKeeper(lane.broker, lane.pattern, lane.group))
        services += self._sweepers
        wait = self._manager.options.wait
        return Options(
            start=start, prefetch=Prefetch(wait=wait), limits=limits, refused=lane.refused, services=services
        )


def _same(first: Terms, terms: Terms) -> None:
    """Refuse what one consumer cannot do for both of its subscriptions."""
    for name in ("concurrency", "payload_type"):
        theirs, ours = getattr(first, name), getattr(terms, name)
        if theirs != ours and not (name == "concurrency" and ours == 1):  # one is said by saying nothing
            raise ConfigurationError(
                f"subscriptions with one pattern and group have one {name}: {theirs!r} is there, got {ours!r}; say the same"
                " or name another group"
            )
