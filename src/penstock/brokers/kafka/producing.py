"""Writing records: acknowledged by all replicas in sync, once each for the server however often the network fails.

The library's idempotent producer numbers what it sends, so its own repetitions leave no duplicates. A thread serves its
delivery reports; a batch is answered when the last of them is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from .librdkafka import code_of
from .options import KafkaOptions
from .wire import Headers

if TYPE_CHECKING:
    from confluent_kafka import Message as Raw

FULL = 0.005  # seconds to wait when the library's queue is full


class Writing(NamedTuple):
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class _Batch:
    """Delivery reports to come. ``reported`` is called on the producer's thread."""

    def __init__(self, count: int) -> None:
        self.fates: list[KafkaError | Exception | None] = [None] * count
        self._left, self._loop = count, asyncio.get_running_loop()
        self._lock = threading.Lock()
        self.done = self._loop.create_future()

    def reported(self, index: int, error: KafkaError | None, _: Raw | None) -> None:
        if error is not None:
            self.fates[index] = error
        with self._lock:  # what was refused is reported on another thread
            self._left -= 1
            left = self._left
        if not left:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                self._loop.call_soon_threadsafe(self._finish)

    def refused(self, index: int, error: Exception) -> None:
        self.fates[index] = error
        self._loop.call_soon(self.reported, index, None, None)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Producing:
    """One producer and the thread that serves it. ``broken``: it had an error that it does not survive."""

    def __init__(self, options: KafkaOptions) -> None:
        self._timeout, self.broken = options.timeout, False
        self._producer = Producer(
            options.client()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",  # the same partition for a key as every client in Java chooses
                "message.timeout.ms": round(options.timeout * 1000),
                "message.max.bytes": max(options.max_body + 65_536, 1_000_000),
                "linger.ms": 1,
                "queue.buffering.max.messages": 100_000,
            }
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="penstock-kafka-producer", daemon=True)
        self._thread.start()

    async def write(self, records: Sequence[Writing]) -> list[KafkaError | Exception | None]:
        """Write them all; what became of each, ``None`` for those that the server has."""
        if not records:
            return []
        batch, produce = _Batch(len(records)), self._producer.produce
        for index, record in enumerate(records):
            while True:
                try:
                    produce(
                        record.topic,
                        record.value,
                        record.key,
                        on_delivery=partial(batch.reported, index),
                        headers=record.headers,  # type: ignore[arg-type]
                    )
                except BufferError:
                    await asyncio.sleep(FULL)
                except Exception as error:  # noqa: BLE001 whatever is wrong with one, the others have gone out
                    self.broken = self.broken or code_of(error) == KafkaError._FATAL
                    batch.refused(index, error)
                    break
                else:
                    break
        await batch.done
        return batch.fates

    def close(self) -> None:
        """Blocks until what was handed in is written, or for the timeout; then the rest has failed."""
        if self._producer.flush(self._timeout):
            self._producer.purge()
            self._producer.flush(self._timeout)
        self._ended.set()
        self._thread.join(self._timeout)

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                self._producer.poll(0.1)
            except KafkaException:  # it will never write again: what it still has fails now
                self.broken = True
                self._producer.purge()
                self._ended.wait(FULL)
