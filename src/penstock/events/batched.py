"""BatchedEventPublisher: events that wait a little for each other and travel together.

1. ``add`` validates and puts the event into its envelope; it waits in the queue of its kind (``group_by``).
2. A queue leaves when it is full, when its oldest event has waited for ``max_wait``, or at ``flush``. Batches of one
   queue leave one after the other, so its order is kept; ``max_concurrent`` of all queues are under way at once.
3. Whoever fills a queue waits until that batch is gone, and everybody waits while ``max_queued`` events are unsent:
   that is the back-pressure. Nothing is thrown away for it.
4. What the broker refuses is in ``failed_messages``, each with its own error, also after ``close``.

On the wire each event is an entry of its own, so that every consumer reads it; what is batched is the transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

from ..broker import Broker
from ..checks import at_least_one, positive
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import BrokerError, ConfigurationError, PublishError
from ..telemetry import TELEMETRY, Telemetry
from .failures import FailedEvent, Failures
from .publisher import EventPublisher, Prepared
from .routing import Route, StreamRule
from .stats import MemoryStats, PublisherStats
from .validation import Validator

logger = logging.getLogger("penstock")

GroupBy: TypeAlias = Literal["exact", "0", "1"] | int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """``max_size`` events of a batch at most; ``max_wait`` seconds until one leaves that is not full.

    ``max_concurrent``: batches under way at once; more of them wait. ``group_by``: what waits together: events of one
    type (``"exact"``), or of one beginning, up to segment 0, 1 … ``max_queued``: events that may be unsent.
    """

    max_size: int = 100
    max_wait: float = 1.0
    max_concurrent: int = 5
    group_by: GroupBy = "exact"
    max_queued: int = 10_000

    def __post_init__(self) -> None:
        at_least_one("max_size, the events of one batch,", self.max_size)
        positive("max_wait, in seconds,", self.max_wait)
        at_least_one("max_concurrent, the batches at once,", self.max_concurrent)
        at_least_one("max_queued, the events not sent yet,", self.max_queued)
        group_by: Any = self.group_by
        if isinstance(group_by, str) and group_by.isdecimal():
            object.__setattr__(self, "group_by", int(group_by))
        elif group_by != "exact" and (not isinstance(group_by, int) or isinstance(group_by, bool) or group_by < 0):
            raise ConfigurationError(f"group_by is 'exact' or the number of a segment, from 0 on; got {group_by!r}")

    def key(self, event_type: str) -> str:
        """What a type shares with those that it waits with."""
        if self.group_by == "exact":
            return event_type
        return ".".join(event_type.split(".")[: int(self.group_by) + 1])


class _Queue:
    """Events of one kind, and the batches of it that are under way."""

    def __init__(self) -> None:
        self.waiting: deque[Prepared] = deque()
        self.turn = asyncio.Lock()
        self.timer: asyncio.Task[None] | None = None
        self.users = 0


class BatchedEventPublisher:
    """Publishes events in batches. The parameters are those of ``EventPublisher``, and ``batch``."""

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
        batch: EventBatch | None = None,
        clock: Clock = SYSTEM_CLOCK,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        self._publisher = EventPublisher(
            transports,
            origin=origin,
            namespace=namespace,
            validator=validator,
            routes=routes,
            default=default,
            stream=stream,
            clock=clock,
            telemetry=telemetry,
        )
        self._batch, self._clock = batch or EventBatch(), clock
        self._queues: dict[str, _Queue] = {}
        self._free = asyncio.Semaphore(self._batch.max_concurrent)
        self._unsent = self._active = 0
        self._room = asyncio.Event()
        self._room.set()
        self._failed = Failures(clock)
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()

    async def add(
        self,
        event_type: str,
        body: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        validator: Validator | None = None,
    ) -> str:
        """Add an event, to be sent soon; its id. Raises as ``EventPublisher.publish`` does before it sends.

        Waits while there is no room, and if this event fills a batch, until that batch is gone.
        """
        self._check_open()
        prepared = await self._publisher.prepare(event_type, body, key=key, headers=headers, validator=validator)
        while self._unsent >= self._batch.max_queued:
            self._room.clear()
            await self._room.wait()
        self._check_open()
        queue, name = self._queue_of(event_type)
        queue.waiting.append(prepared)
        self._unsent += 1
        if len(queue.waiting) >= self._batch.max_size:
            await self._drain(name, queue, full=True)
        elif queue.timer is None:
            queue.timer = asyncio.create_task(self._in_time(name, queue))
        return prepared.id

    async def publish_many(self, event_type: str, bodies: Iterable[Any]) -> list[str]:
        """Add events of one type and send them now. Raises ``PublishError`` with the fate of each if some failed."""
        with self._failed.watched() as lost:
            ids = [await self.add(event_type, body) for body in bodies]
            with suppress(
                PublishError
            ):  # of whatever waited; these here may have gone before, in a batch that was full
                await self.flush()
        if any(ident in lost for ident in ids):
            raise PublishError([lost.get(ident, ident) for ident in ids])
        return ids

    async def flush(self) -> None:
        """Send everything that waits. Raises ``PublishError`` with the fate of each event sent here, if some failed.

        They are among ``failed_messages`` too.
        """
        queues = list(self._queues.items())
        found = await asyncio.gather(*(self._drain(name, queue) for name, queue in queues))
        fates = [fate for part in found for fate in part]
        if any(isinstance(fate, Exception) for fate in fates):
            raise PublishError(fates)

    def failed_messages(self) -> list[FailedEvent]:
        """What was not sent, oldest first: the newest thousand. Also after ``close``."""
        return self._failed.view()

    def clear_failed_messages(self) -> None:
        """Forget them."""
        self._failed.take()

    def cleanup_old_failed_messages(self, max_age: float = 3600.0) -> int:
        """Forget those that failed more than ``max_age`` seconds ago; how many."""
        return self._failed.forget_older(max_age)

    async def retry_failed_messages(self) -> int:
        """Send them once more, as the same events; how many the broker has now. The others stay. Not after ``close``."""
        self._check_open()
        fates = await self._send([each.prepared for each in self._failed.take()])
        return sum(isinstance(fate, str) for fate in fates)

    def memory_stats(self) -> MemoryStats:
        """What it holds now."""
        return MemoryStats(
            queue_count=sum(bool(queue.waiting) for queue in self._queues.values()),
            total_messages=self._unsent,
            failed_message_count=len(self._failed),
            active_batches=self._active,
            dropped_failures=self._failed.dropped,
        )

    def stats(self) -> PublisherStats:
        """Totals since it was made."""
        return self._publisher.stats()

    def register_schema(self, event_type: str, schema: Any) -> None:
        """See ``EventPublisher.register_schema``."""
        self._publisher.register_schema(event_type, schema)

    async def close(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 running out of it is no error
        """Take no more, send what waits within ``timeout`` seconds, disconnect. What is left is a failed message.

        Idempotent: whoever calls it waits for the one closing, which goes on if a caller is cancelled. Raises nothing
        for what could not be sent: look at ``failed_messages``.
        """
        if self._closing is None:
            self._closed = True
            self._room.set()  # whoever waits to add learns that it is closed
            self._closing = asyncio.create_task(self._close(timeout))
        await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:  # noqa: ASYNC109 see close
        flushing = asyncio.ensure_future(self._flush_quietly())
        sleeping = asyncio.ensure_future(self._clock.sleep(timeout))
        await asyncio.wait((flushing, sleeping), return_when=asyncio.FIRST_COMPLETED)
        timers = [queue.timer for queue in self._queues.values() if queue.timer is not None]
        tasks = [flushing, sleeping, *timers, *self._under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for queue in self._queues.values():
            left = BrokerError(f"not sent: the publisher was closed, and {timeout:g} seconds were over")
            self._failed.note(list(queue.waiting), [left] * len(queue.waiting))
            self._gone(len(queue.waiting))
            queue.waiting.clear()
        self._queues.clear()
        await self._publisher.close()
        if self._failed:
            logger.warning("%d events were not sent; they are in failed_messages()", len(self._failed))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --------------------------------------------------------------------------------------------------------- queues

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("the publisher is closed and takes no more events")

    def _queue_of(self, event_type: str) -> tuple[_Queue, str]:
        name = self._batch.key(event_type)
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        return queue, name

    async def _in_time(self, name: str, queue: _Queue) -> None:
        """The timer of a queue: runs once, from its first event on."""
        try:
            await self._clock.sleep(self._batch.max_wait)
        finally:
            queue.timer = None
        await self._drain(name, queue)

    async def _drain(self, name: str, queue: _Queue, *, full: bool = False) -> list[str | Exception]:
        """Send what is in a queue now, or only as long as it fills batches; the fates.

        The sending is a task of its own: who waits for it may be cancelled, the batch is not.
        """
        queue.users += 1
        try:
            task = asyncio.create_task(self._sent(queue, full=full))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            return await asyncio.shield(task)
        finally:
            queue.users -= 1
            self._tidy(name, queue)

    async def _sent(self, queue: _Queue, *, full: bool) -> list[str | Exception]:
        size, fates = self._batch.max_size, list[str | Exception]()
        async with queue.turn:
            left = len(queue.waiting)
            while left > 0 and queue.waiting and (not full or len(queue.waiting) >= size):
                async with self._free:
                    chunk = [queue.waiting.popleft() for _ in range(min(size, len(queue.waiting)))]
                    left -= len(chunk)
                    fates += await self._send_counted(chunk)
        return fates

    async def _send_counted(self, chunk: list[Prepared]) -> Sequence[str | Exception]:
        self._active += 1
        try:
            return await self._send(chunk)
        finally:
            self._active -= 1
            self._gone(len(chunk))

    def _tidy(self, name: str, queue: _Queue) -> None:
        """A queue that is empty and idle is forgotten; one with events in it has a timer."""
        if queue.waiting and queue.timer is None and not self._closed:
            queue.timer = asyncio.create_task(self._in_time(name, queue))
        if queue.waiting or queue.users:
            return
        if queue.timer is not None and queue.timer is not asyncio.current_task():
            queue.timer.cancel()
        queue.timer = None
        if self._queues.get(name) is queue:
            del self._queues[name]

    def _gone(self, count: int) -> None:
        self._unsent -= count
        if self._unsent < self._batch.max_queued:
            self._room.set()

    async def _send(self, chunk: Sequence[Prepared]) -> Sequence[str | Exception]:
        try:
            fates = await self._publisher.send(chunk)
        except BaseException as error:  # cancelled by close: nobody knows what became of it
            unknown = BrokerError(f"perhaps not sent: {type(error).__name__} while it was under way")
            self._failed.note(chunk, [unknown] * len(chunk))
            raise
        self._failed.note(chunk, fates)
        return fates

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except PublishError as error:
            logger.warning("closing: %s", error)
