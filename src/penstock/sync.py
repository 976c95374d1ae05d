"""The synchronous API: the same producers, inspectors and workers, for scripts, threads and WSGI applications.

Every call waits for its answer and may be made from any thread. Calls of many threads share round trips. Objects may be
made before a server forks its processes; each process has its own connections. Nothing needs to be closed.
"""

from __future__ import annotations

import asyncio
import atexit
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

from .audit import Audit
from .broker import Broker, DeadMessage, Finding, Outgoing, Presence, StreamStats
from .checks import positive
from .codec import Codec
from .consumer import Consumer
from .inspector import PAGE
from .inspector import Inspector as AsyncInspector
from .message import Message
from .pipeline import Middleware
from .portal import Portal, shared
from .producer import Idempotency, Send
from .producer import Producer as AsyncProducer
from .worker import Worker as AsyncWorker

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

PATIENCE = 30.0  # seconds; the calls below have shorter deadlines of their own

__all__ = ["Inspector", "Producer", "Worker"]


class _Remote(Generic[A]):
    """An asynchronous object, made where it is used: on the loop of each process that uses it."""

    def __init__(self, broker: Broker[Any], patience: float, make: Callable[[Broker[Any]], A]) -> None:
        positive("patience, in seconds,", patience)
        make(broker)  # no I/O: what is wrong with the arguments is told where they are given
        self._broker, self._patience, self._make = broker, patience, make
        self._made: tuple[Portal, Broker[Any], A] | None = None

    def call(self, method: Callable[[A], Awaitable[R]]) -> R:
        """Run a method of it and wait for the result."""
        portal = shared()

        async def work() -> R:
            if self._made is None or self._made[0] is not portal:  # the first call here, or since a fork
                fork = portal.fork(self._broker)
                self._made = portal, fork, self._make(fork)
                weakref.finalize(self, portal.release, fork)
            _, broker, made = self._made
            await broker.open()
            return await method(made)

        return portal.call(work, self._patience)


class Producer(Generic[T]):
    """Writes payloads of one type to ``stream``; see ``penstock.Producer`` for its arguments.

    ``patience``: seconds after which a call gives up with ``ConnectionFailed``, should nothing else have ended it.
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
        patience: float = PATIENCE,
    ) -> None:
        self.broker, self.stream = broker, stream
        self._remote: _Remote[AsyncProducer[T]] = _Remote(
            broker,
            patience,
            lambda own: AsyncProducer(
                own,
                stream,
                payload_type,
                shards=shards,
                default_type=default_type,
                codec=codec,
                idempotency=idempotency,
                middleware=middleware,
                max_body=max_body,
                expires=expires,
                archive=archive,
            ),
        )

    def send(
        self,
        payload: T,
        *,
        type: str | None = None,
        key: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expires: float | None = None,
    ) -> str:
        """Send one message, as ``penstock.Producer.send`` does; its id, once the broker has it."""
        return self._remote.call(
            lambda own: own.send(
                payload, type=type, key=key, delay=delay, headers=headers, timeout=timeout, expires=expires
            )
        )

    def send_many(self, payloads: Iterable[T | Send[T]], *, type: str | None = None, delay: float = 0.0) -> list[str]:
        """Send many messages in as few round trips as possible, as ``penstock.Producer.send_many`` does."""
        items = list(payloads)  # here: a generator of the caller's belongs on the caller's thread
        return self._remote.call(lambda own: own.send_many(items, type=type, delay=delay))


class Inspector:
    """Looks at streams and dead letters and mends them, as ``penstock.Inspector`` does."""

    def __init__(self, broker: Broker[Any], *, patience: float = PATIENCE) -> None:
        self._remote = _Remote(broker, patience, AsyncInspector)

    def sources(self) -> Sequence[str]:
        """The streams there are."""
        return self._remote.call(lambda own: own.sources())

    def stats(self, *sources: str) -> list[StreamStats]:
        """Sizes of the streams named, or of all."""
        return self._remote.call(lambda own: own.stats(*sources))

    def peek(self, source: str, limit: int = 10) -> Sequence[Message]:
        """The oldest messages of a stream."""
        return self._remote.call(lambda own: own.peek(source, limit))

    def dead(self, source: str, limit: int = 10, *, after: str | None = None) -> Sequence[DeadMessage]:
        """Dead letters, oldest first."""
        return self._remote.call(lambda own: own.dead(source, limit, after=after))

    def each_dead(self, source: str, keep: Callable[[DeadMessage], bool] = lambda _: True) -> Iterator[DeadMessage]:
        """Every dead letter that ``keep`` wants, oldest first, page by page."""
        after: str | None = None
        while page := self.dead(source, PAGE, after=after):
            yield from filter(keep, page)
            after = page[-1].id

    def requeue(self, source: str, ids: Sequence[str]) -> int:
        """Put dead letters back as fresh messages; how many were still there."""
        return self._remote.call(lambda own: own.requeue(source, ids))

    def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        """Delete dead letters for good; how many were still there."""
        return self._remote.call(lambda own: own.purge_dead(source, ids))

    def purge(self, source: str) -> int:
        """Delete everything that waits in a stream, now or later; how many."""
        return self._remote.call(lambda own: own.purge(source))

    def pause(self, source: str) -> bool:
        """Have every worker fetch no more from a stream; false if it was paused already."""
        return self._remote.call(lambda own: own.pause(source))

    def resume(self, source: str) -> bool:
        """Have them go on; false if it was not paused."""
        return self._remote.call(lambda own: own.resume(source))

    def paused(self) -> frozenset[str]:
        """The streams that are paused, where the broker keeps a list."""
        return self._remote.call(lambda own: own.paused())

    def processes(self) -> Sequence[Presence]:
        """The workers alive, where the broker keeps a list."""
        return self._remote.call(lambda own: own.processes())

    def diagnose(self) -> Sequence[Finding]:
        """What is unsafe about the server's settings, where the broker can tell."""
        return self._remote.call(lambda own: own.diagnose())


class Worker:
    """Runs consumers on a thread of its own: from ``start`` to ``stop``, or as a context manager.

    Handlers that are plain functions run in threads and may use this module; coroutine functions share the worker's
    loop. ``run`` serves on the calling thread until a signal. The brokers of the consumers are this worker's alone.
    """

    def __init__(self, *consumers: Consumer[Any], drain: float = 25.0, scheduler: bool = True) -> None:
        self._worker = AsyncWorker(*consumers, drain=drain, scheduler=scheduler)
        self._portal: Portal | None = None

    @property
    def ready(self) -> bool:
        """Whether every consumer has an answer from its broker and none is in an outage."""
        return self._portal is not None and self._worker.ready

    def start(self) -> None:
        """Start everything and return. Raises ``ConnectionFailed`` or ``AccessDenied`` if a broker cannot be used."""
        if self._portal is not None:
            return
        portal = Portal("penstock-worker")
        try:
            portal.call(self._worker.start, None)
        except BaseException:
            portal.close()
            raise
        self._portal = portal
        atexit.register(self.stop)

    def stop(self, timeout: float | None = None) -> bool:
        """Stop cleanly within ``timeout`` seconds (by default ``drain``); true if nothing was interrupted. Idempotent."""
        portal, self._portal = self._portal, None
        atexit.unregister(self.stop)
        if portal is None or not portal.alive:  # not started, or started by the process that this one was forked from
            return True
        try:
            return portal.call(lambda: self._worker.stop(timeout), None)
        finally:
            portal.close()

    def run(self) -> None:
        """Serve on this thread until SIGTERM or SIGINT, then stop."""
        asyncio.run(self._worker.run())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
