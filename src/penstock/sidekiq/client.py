"""From items to jobs in a broker.

The life of an item::

    item ─normalise─► payload ─client middleware─► payload or None ─strict args─► Outgoing ─► broker

An item is a mapping with ``class`` (a ``Job`` class or a wire name), ``args`` and options. Works on every broker; on
``sidekiq+redis://`` what arrives is what Ruby's client writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from random import Random, SystemRandom
from typing import Any, Final, ParamSpec, Self, cast

from .. import job_route
from ..audit import Audit, Audited
from ..batching import Batcher
from ..broker import Broker, Outgoing
from ..brokers.sidekiq.ruby_json import dumps, loads
from ..checks import one_of
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError, PublishError, UnsupportedFeature
from ..job import Performs
from ..job_moment import Moment
from ..job_setter import Setter
from .bulk import Bulk
from .chain import Chain
from .inline import job_class, run_inline
from .interception import interceptor
from .outgoing import outgoing_of
from .payload import Payload, job_of, normalised, sound
from .strict_args import StrictArgs, encoded
from .sync_client import SyncClient

P = ParamSpec("P")

CANCELLED_FOR: Final = 30 * 86_400  # seconds that the state of an iterable job is kept


class Client:
    """Pushes jobs to ``broker``. One for a program, as a rule: ``Client(broker).install()``.

    ``middleware`` and ``server_middleware``: the chains around each push and, for jobs run inline, each execution.
    ``strict_args``: what happens to arguments that are not of JSON's own types. ``archive``: where a row of each job is
    kept.
    """

    def __init__(
        self,
        broker: Broker[Any],
        *,
        middleware: Chain | None = None,
        server_middleware: Chain | None = None,
        strict_args: StrictArgs = "raise",
        archive: Audit | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
    ) -> None:
        if isinstance(broker, str):
            raise ConfigurationError(f"a client needs a broker, got a text; write open_broker({broker!r})")
        one_of("strict_args", strict_args, ("raise", "warn", "none"))
        self.broker = broker
        self.middleware = middleware if middleware is not None else Chain()
        self.server_middleware = server_middleware if server_middleware is not None else Chain()
        self.strict_args: StrictArgs = strict_args
        self._clock, self._random = clock, random or SystemRandom()
        options: Any = getattr(broker, "options", None)
        self._floats = getattr(options, "timestamps", "ms") == "float"
        self._archive = archive
        self._publish = broker.publish if archive is None else Audited(broker, archive).publish
        self._batcher: Batcher[Outgoing, str] = Batcher(self._publish, limit=broker.capabilities.max_batch)
        self._sync: SyncClient | None = None

    # ------------------------------------------------------------------------------------------------- being the client

    def install(self) -> Self:
        """Be the client that jobs are pushed with, in this process, wherever no other is said."""
        job_route.install(self)
        return self

    @staticmethod
    def via(client: job_route.Pusher) -> AbstractContextManager[None]:
        """Push with ``client`` within the block, in this task or thread: another shard, another broker."""
        return job_route.via(client)

    @property
    def sync(self) -> SyncClient:
        """The same for code without a loop: scripts, threads, WSGI applications."""
        if self._sync is None:
            self._sync = SyncClient(self, self._on)
        return self._sync

    def now(self) -> float:
        return self._clock.time()

    def copy(self) -> Client:
        """A client of the same broker with chains of its own, to be changed by themselves."""
        return self._made(self.broker, self.middleware.copy(), self.server_middleware.copy())

    # ---------------------------------------------------------------------------------------------------------- pushing

    async def push(self, item: Mapping[str, Any]) -> str | None:
        """Enqueue one job; its jid once the broker has it, ``None`` if a middleware did not let it pass.

        Concurrent pushes share round trips; a lone one waits for nobody.
        Raises ``ArgumentError`` before anything is sent; ``ConnectionFailed``, ``AccessDenied``, ``BrokerError`` after.
        """
        payload = await self._passed(item)
        if payload is None:
            return None
        outgoing = self._outgoing(payload, encoded(payload["args"], payload, self.strict_args))
        instead = interceptor()
        if instead is not None:
            await instead(item["class"], [payload])
        else:
            await self.broker.open()
            await self._batcher.submit(outgoing)
        return str(payload["jid"])

    async def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]:
        """Enqueue a job for each list in ``args``; their jids in order, ``None`` where a middleware did not let it pass.

        Beside the options of a job: ``at`` (one moment, or one for each), ``batch_size`` (jobs sent at once, by default
        1000, or 100 if they are scheduled), ``spread_interval`` (seconds over which to spread them at random).
        ``args`` may be an iterator: it is consumed batch by batch. Raises ``PublishError`` with the fate of each job
        that was come to when a later batch failed: at the broker, in a middleware, by arguments that are no JSON.
        """
        bulk = Bulk(items, self.now(), self._stamp(), self._random)
        jids: list[str | None] = []
        for batch in bulk.batches():
            payloads: list[Payload | None] = [*batch]
            try:
                if self.middleware:
                    payloads[:] = [await self._through(bulk.job, one) for one in batch]
                passed = [payload for payload in payloads if payload is not None]
                sent = [self._outgoing(one, encoded(one["args"], one, self.strict_args)) for one in passed]
                if passed:
                    await self._send(bulk.job, passed, sent)
            except Exception as error:
                if not jids:
                    raise
                raise PublishError(_fates(jids, payloads, error)) from error
            jids += [None if payload is None else payload["jid"] for payload in payloads]
        return jids

    async def perform_inline(self, item: Mapping[str, Any]) -> bool | None:
        """Run a job here and now, as a worker would get it; ``None`` if a middleware did not let it pass."""
        payload = await self._passed(item)
        if payload is None:
            return None
        encoded(payload["args"], payload, self.strict_args)
        await run_inline(job_class(item["class"], payload["class"]), loads(dumps(payload)), self.server_middleware)
        return True

    async def repush(self, payload: Payload) -> Payload | None:
        """What the middleware makes of a job that is due: a payload, or ``None``. For brokers that ask before a move."""
        return await self._through(payload["class"], payload)

    # -------------------------------------------------------------------------------------------------------- shortcuts

    async def enqueue(self, job: type[Performs[P]], /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue a job."""
        with job_route.via(self):
            return await _setter(job).perform_in(0, *args, **kwargs)

    async def enqueue_to(self, queue: str, job: type[Performs[P]], /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue a job to a queue."""
        with job_route.via(self):
            return await _setter(job).set(queue=queue).perform_in(0, *args, **kwargs)

    async def enqueue_in(
        self, interval: Moment, job: type[Performs[P]], /, *args: P.args, **kwargs: P.kwargs
    ) -> str | None:
        """Enqueue a job to run after an interval, or at a moment."""
        with job_route.via(self):
            return await _setter(job).perform_in(interval, *args, **kwargs)

    async def enqueue_to_in(
        self, queue: str, interval: Moment, job: type[Performs[P]], /, *args: P.args, **kwargs: P.kwargs
    ) -> str | None:
        """Enqueue a job to a queue, to run after an interval, or at a moment."""
        with job_route.via(self):
            return await _setter(job).set(queue=queue).perform_in(interval, *args, **kwargs)

    async def cancel(self, jid: str) -> int:
        """Ask an iterable job to end; when it was first asked to, in seconds since the epoch. On Sidekiq's schema only."""
        redis: Any = getattr(self.broker, "client", None)
        if redis is None or not hasattr(self.broker, "options"):
            raise UnsupportedFeature(f"{self.broker.url} has no iterable jobs to cancel; use a sidekiq+redis:// broker")
        await self.broker.open()
        key = f"it-{jid}"
        replies = await redis.many(
            [
                ["HSETNX", key, "cancelled", int(self.now())],
                ["EXPIRE", key, CANCELLED_FOR, "NX"],
                ["HGET", key, "cancelled"],
            ]
        )
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return int(replies[-1])

    # --------------------------------------------------------------------------------------------------------- internals

    async def _passed(self, item: Mapping[str, Any]) -> Payload | None:
        payload = normalised(item, self._stamp())
        return await self._through(item["class"], payload) if self.middleware else payload

    async def _through(self, job: Any, payload: Payload) -> Payload | None:
        async def itself() -> Payload:
            return payload

        result = await self.middleware.invoke(itself, job, payload, payload["queue"], self.broker)
        if isinstance(result, dict):
            return sound(cast("Payload", result))
        return payload if result else None

    def _outgoing(self, payload: Payload, body: bytes) -> Outgoing:
        return outgoing_of(payload, body, self._clock.time(), self.broker)

    async def _send(self, job: Any, payloads: Sequence[Payload], outgoings: Sequence[Outgoing]) -> None:
        instead = interceptor()
        if instead is not None:
            await instead(job, payloads)
            return
        await self.broker.open()
        await self._publish(outgoings)

    def _stamp(self) -> float:
        now = self._clock.time()
        return now if self._floats else int(now * 1000)

    def _on(self, broker: Broker[Any]) -> Client:
        return self._made(broker, self.middleware, self.server_middleware)

    def _made(self, broker: Broker[Any], middleware: Chain, server_middleware: Chain) -> Client:
        return Client(
            broker,
            middleware=middleware,
            server_middleware=server_middleware,
            strict_args=self.strict_args,
            archive=self._archive,
            clock=self._clock,
            random=self._random,
        )


def _setter(job: type[Performs[P]]) -> Setter[P]:
    made: Setter[P] = job_of(job).set()
    return made


def _fates(before: Sequence[str | None], batch: Sequence[Payload | None], error: Exception) -> list[str | Exception]:
    """What became of each job come to so far; one that a middleware did not let pass has the empty text."""
    told = iter(error.results) if isinstance(error, PublishError) else None
    fates: list[str | Exception] = [jid or "" for jid in before]
    for payload in batch:
        if payload is None:
            fates.append("")
        else:
            fate = error if told is None else next(told)
            fates.append(fate if isinstance(fate, Exception) else str(payload["jid"]))
    return fates
