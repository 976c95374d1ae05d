"""A stage for stories inside one process: workers on a real broker, what they did, and waiting for it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from penstock import Consumer, Inspector, Message, Producer, Worker, open_broker
from penstock.broker import Broker, DeadMessage, Outgoing, StreamStats

PATIENCE = 30.0  # seconds that a test waits for what must come


class Stage:
    """One broker address, one stream name of the test's own, and everything opened on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stream = f"s-{uuid.uuid4().hex[:8]}"
        self._brokers: list[Broker[Any]] = []
        self._workers: list[Worker] = []

    def broker(self) -> Broker[Any]:
        """One more connection; closed when the test ends."""
        self._brokers.append(open_broker(self.url))
        return self._brokers[-1]

    def producer(self, payload_type: Any = dict, **options: Any) -> Producer[Any]:
        return Producer(self.broker(), self.stream, payload_type, **options)

    def consumer(self, payload_type: Any, handler: Callable[..., Any], **options: Any) -> Consumer[Any]:
        stream = options.pop("stream", self.stream)
        return Consumer(options.pop("broker", None) or self.broker(), stream, payload_type, handler, **options)

    async def work(self, *consumers: Consumer[Any], **options: Any) -> Worker:
        """Start a worker; stopped when the test ends."""
        worker = Worker(*consumers, **{"drain": 5.0, **options})
        self._workers.append(worker)
        await worker.start()
        return worker

    async def put(self, *messages: Message) -> Sequence[str]:
        """Write messages as some other program would, checking nothing."""
        broker = self.broker()
        await broker.open()
        return await broker.publish([Outgoing(destination=self.stream, message=message) for message in messages])

    async def stats(self) -> StreamStats:
        return (await self._inspector().stats(self.stream))[0]

    async def dead(self) -> Sequence[DeadMessage]:
        return await self._inspector().dead(self.stream, 1000)

    async def reasons(self) -> list[str]:
        """Why what is dead has died, sorted."""
        return sorted(letter.reason for letter in await self.dead())

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], within: float = PATIENCE) -> None:
        """Wait for it to become true."""
        deadline = time.monotonic() + within
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            if time.monotonic() > deadline:
                stats, reasons = await self.stats(), await self.reasons()
                raise AssertionError(f"waited {within} s in vain: {stats}, {reasons}")
            await asyncio.sleep(0.01)

    async def until_empty(self, within: float = PATIENCE) -> None:
        """Wait until the stream holds nothing, now or later: seen twice, as what moves meanwhile is in neither number."""

        async def empty() -> bool:
            stats = await self.stats()
            return not stats.size and not stats.delayed and not any(group.leased for group in stats.groups)

        async def still() -> bool:
            return await empty() and await empty()

        await self.until(still, within)

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()
        for broker in self._brokers:
            await broker.close()

    def _inspector(self) -> Inspector:
        if not hasattr(self, "_looker"):
            self._looker = self.broker()
        return Inspector(self._looker)
