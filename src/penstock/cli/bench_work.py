"""The work that ``penstock bench`` measures, done by penstock: publishing in three ways, consuming, waking up.

Every method returns the seconds that its work took; what one publishes the next ``consume`` takes away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from ..app import open_broker
from ..consumer import Consumer
from ..errors import PenstockError
from ..producer import Producer
from ..worker import Worker

CONCURRENCY = 100
CHUNK = 1000  # messages of one ``send_many``, and concurrent sends at once
PAUSE = 0.002  # seconds between two messages to an idle worker
PATIENCE = 60.0  # seconds without a single finished job after which a run is called stuck


class Job(msgspec.Struct):
    """A typed payload of about a hundred bytes."""

    order: int
    email: str
    subject: str
    amount: float


def job(number: int) -> Job:
    """The payload with this number."""
    return Job(number, "somebody@example.org", "Your order is on its way", 19.95)


class Ours:
    """The work on one stream. ``rss``: the most bytes that this process had while its worker ran."""

    def __init__(self, url: str, stream: str) -> None:
        self._url, self.stream = url, stream
        self.broker = open_broker(url)
        self._producer = Producer(self.broker, stream, Job)
        self._backlog = 0
        self.rss = 0

    async def open(self) -> None:
        """Connect."""
        await self.broker.open()

    async def close(self) -> None:
        """Disconnect."""
        await self.broker.close()

    async def awaited(self, count: int) -> float:
        """One message after the other, each awaited."""
        send, self._backlog = self._producer.send, self._backlog + count
        began = time.perf_counter()
        for number in range(count):
            await send(job(number))
        return time.perf_counter() - began

    async def gathered(self, count: int) -> float:
        """Many sends at once, as the requests of a web server would."""
        send, self._backlog = self._producer.send, self._backlog + count
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            await asyncio.gather(*[send(job(number)) for number in range(start, min(start + CHUNK, count))])
        return time.perf_counter() - began

    async def batched(self, count: int) -> float:
        """``send_many``."""
        self._backlog += count
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            await self._producer.send_many([job(number) for number in range(start, min(start + CHUNK, count))])
        return time.perf_counter() - began

    async def consume(self) -> tuple[int, float]:
        """All that was published, by a worker: how many and how long, from its start until the last one is settled."""
        total, self._backlog = self._backlog, 0
        executed, done = 0, asyncio.Event()

        async def handle(_job: Job) -> None:
            nonlocal executed
            executed += 1
            if executed == total:
                done.set()

        worker, consumer = self._worker(handle)
        began = time.perf_counter()
        await worker.start()
        try:
            await _until(done, lambda: executed)
            await _settled(consumer)
            seconds = time.perf_counter() - began
            self.rss = max(self.rss, worker.presence(consumer.broker).rss)
        finally:
            await worker.stop()
        if (executed, consumer.counters.acked) != (total, total):
            raise PenstockError(f"of {total} jobs {executed} were executed and {consumer.counters.acked} acked")
        return total, seconds

    async def latencies(self, count: int) -> list[float]:
        """From the call of ``send`` to the start of the handler, on an idle worker, one message at a time."""
        found: list[float] = []
        sent_at, started = 0.0, asyncio.Event()

        async def handle(_job: Job) -> None:
            found.append(time.perf_counter() - sent_at)
            started.set()

        worker, consumer = self._worker(handle)
        async with worker:
            for number in range(count + 1):
                await asyncio.sleep(PAUSE)
                started.clear()
                sent_at = time.perf_counter()
                await self._producer.send(job(number))
                await _until(started, lambda: len(found))
            await _settled(consumer)
            self.rss = max(self.rss, worker.presence(consumer.broker).rss)
        return found[1:]  # the first one wakes a worker that may still be starting

    def weigh(self) -> int:
        """The bytes of memory that this process has now."""

        async def handle(_job: Job) -> None:
            """Never called."""

        worker, consumer = self._worker(handle)
        return worker.presence(consumer.broker).rss

    def _worker(self, handle: Callable[[Job], Awaitable[None]]) -> tuple[Worker, Consumer[Job]]:
        consumer = Consumer(open_broker(self._url), self.stream, Job, handle, concurrency=CONCURRENCY)
        return Worker(consumer), consumer


async def _settled(consumer: Consumer[Job]) -> None:
    """Wait for the outcomes of what has run to be written."""
    for running in consumer.running:
        await running.ledger.idle.wait()


async def _until(event: asyncio.Event, progress: Callable[[], int]) -> None:
    """Wait for the event as long as there is progress."""
    while True:
        before = progress()
        try:
            async with asyncio.timeout(PATIENCE):
                await event.wait()
            return
        except TimeoutError:
            if progress() == before:
                raise PenstockError(f"stuck: no job was finished for {PATIENCE:g} seconds") from None
