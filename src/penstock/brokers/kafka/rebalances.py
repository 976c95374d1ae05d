"""Rebalances: partitions come with what the group has committed for them, and go drained, committed and fenced.

The client library calls these on the subscription's own thread, inside its look for records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from .book import Book
from .commits import AGAIN, TRIES, Commits
from .librdkafka import AWAY, code_of
from .options import KafkaOptions

logger = logging.getLogger("penstock")

Books: TypeAlias = dict[tuple[str, int], Book]

LOOK = 0.05  # seconds between looks whether a partition is drained


class Rebalances:
    """``make``: a book for a partition that comes; ``leaving``: whether there is no time to drain; ``tell``: those who wait for a change; ``refused``: why partitions
    cannot begin.
    """

    def __init__(
        self,
        options: KafkaOptions,
        books: Books,
        commits: Commits,
        lock: threading.Condition,
        *,
        make: Callable[[TopicPartition], Book],
        leaving: Callable[[], bool],
        tell: Callable[[], object],
    ) -> None:
        self._options, self._books, self._commits, self._lock = options, books, commits, lock
        self._make, self._leaving, self._tell = make, leaving, tell
        self.refused: Callable[[Exception], object] = _nobody
        self.assigned = threading.Event()

    def come(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin where the group has come to."""
        found = self._progress(consumer, partitions)
        begin = list[TopicPartition]()
        with self._lock:
            for each in found:
                book = self._books[each.topic, each.partition] = self._make(each)
                book.begin(each.offset, each.metadata)
                at = each.offset if each.offset >= 0 else OFFSET_BEGINNING
                begin.append(TopicPartition(each.topic, each.partition, at))
        consumer.incremental_assign(begin)
        self._commits.answered = time.monotonic()
        self.assigned.set()
        with self._lock:
            self._tell()

    def _progress(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """What the group has committed for them. Beginning without it would run again what is settled: insist."""
        told = False
        while partitions and not self._leaving():
            wrong: Exception
            try:
                found = consumer.committed(partitions, timeout=self._options.timeout)
                refusals = [each.error for each in found if each.error is not None]
                if not refusals:
                    return found
                wrong = KafkaException(refusals[0])
            except Exception as error:  # noqa: BLE001 the network is down, or a coordinator moves
                wrong = error
            if code_of(wrong) not in AWAY:
                self.refused(wrong)
                if not told:
                    logger.warning("the progress of %s cannot be read: %s", partitions[0].topic, wrong)
                told = True
            time.sleep(AGAIN)
        return []

    def go(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Let what runs finish for a while, commit, and fence the rest."""
        books = self._close(partitions)
        deadline = time.monotonic() + self._options.drain
        while any(book.held for book in books) and time.monotonic() < deadline and not self._leaving():
            self._commits.commit()
            with self._lock:
                if not self._commits.wanted:
                    self._lock.wait(LOOK)
        self._commits.write(books, TRIES)
        if (running := sum(book.held for book in books)) and not self._leaving():
            logger.warning(
                "%d messages of %s are not done after drain=%g s, and their partitions pass on: they are run again by"
                " their new owner. Choose drain= longer than the longest handler",
                running,
                books[0].topic,
                self._options.drain,
            )
        self._forget(books)
        consumer.incremental_unassign(partitions)

    def lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group went on without us: what we hold is others' by now."""
        self._forget(self._close(partitions))
        consumer.incremental_unassign(partitions)

    def _close(self, partitions: Iterable[TopicPartition]) -> list[Book]:
        with self._lock:
            places = [(each.topic, each.partition) for each in partitions]
            books = [self._books[place] for place in places if place in self._books]
            for book in books:
                book.closing = True
        return books

    def _forget(self, books: Iterable[Book]) -> None:
        with self._lock:
            for book in books:
                book.close()
                if self._books.get((book.topic, book.partition)) is book:
                    del self._books[book.topic, book.partition]
            self._commits.wake()


def _nobody(_: Exception) -> None:
    """Nobody is to be told."""
