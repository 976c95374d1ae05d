"""Commits: how far the books have come, written for all who wait at once.

Whoever settles or hands out waits here. While one commit is on its way, the next gathers all that came meanwhile. Only the
subscription's own thread writes; it waits for the answer, because one that is called back would come behind all records
that are queued in the library.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition

from .book import Book

logger = logging.getLogger("penstock")

Versions: TypeAlias = dict[Book, tuple[int, int]]

AGAIN = 0.05  # seconds before a commit is tried again
TRIES = 3


class Commits:
    """``answered``: when the server last gave a sign of life; ``stirred``: when somebody last wanted something.
    ``refusal``: why the last one failed, if it did.
    """

    def __init__(self, consumer: Consumer, lock: threading.Condition) -> None:
        self._consumer, self._lock = consumer, lock
        self._dirty: set[Book] = set()
        self._waiters: list[Callable[[], bool]] = []
        self._not_before = 0.0
        self.answered, self.stirred = time.monotonic(), 0.0
        self.refusal: Exception | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._dirty)

    def committed(self, wanted: dict[Book, int]) -> asyncio.Future[None]:
        """Done when the server knows these versions of the books, or another worker has them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not future.done():
                future.set_result(None)

        def check() -> bool:
            if all(book.durable >= version or not book.alive for book, version in wanted.items()):
                with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                    loop.call_soon_threadsafe(finish)
                return True
            return False

        with self._lock:
            if not check():
                self._waiters.append(check)
                self._dirty.update(wanted)
                self.stirred = time.monotonic()
                self._lock.notify_all()
        return future

    def wake(self) -> None:
        """Tell those whose wait is over. The caller has the lock."""
        self._waiters = [check for check in self._waiters if not check()]

    def commit(self) -> None:
        """Write what others wait for."""
        with self._lock:
            if not self._dirty or time.monotonic() < self._not_before:
                return
            books = [book for book in self._dirty if book.alive]
            self._dirty.clear()
            self.wake()
            self.stirred = time.monotonic()
        if books and not self.write(books):
            with self._lock:
                self._dirty.update(books)
                self._not_before = time.monotonic() + AGAIN

    def write(self, books: Iterable[Book], tries: int = 1) -> bool:
        """Commit these books; whether the server has it."""
        with self._lock:
            places = [_place(book) for book in books]
            versions: Versions = {book: (book.version, book.promised) for book in books}
        return any(self._written(places, versions) for _ in range(tries)) if places else True

    def _written(self, places: list[TopicPartition], versions: Versions) -> bool:
        try:
            answers = self._consumer.commit(offsets=places, asynchronous=False)
        except Exception as error:  # noqa: BLE001 it is tried again, and whoever waits has a deadline of his own
            logger.debug("a commit failed: %s", error)
            self.refusal = error
            return False
        if refused := [each.error for each in answers if each.error is not None]:
            self.refusal = KafkaException(refused[0])
            return False
        self.refusal = None
        with self._lock:
            self.answered = time.monotonic()
            for book, (version, promised) in versions.items():
                book.durable, book.kept = max(book.durable, version), max(book.kept, promised)
            self.wake()
        return True


def _place(book: Book) -> TopicPartition:
    offset, text = book.progress()
    return TopicPartition(book.topic, book.partition, offset, text)
