"""One subscription's place in its consumer group: a thread that alone calls the client library's consumer.

It consumes and files records in the books, pauses what has enough, answers the group's rebalances and commits how far the
books have come, whatever the worker's loop is doing. So a handler that is slow, or blocks the loop for an hour, never
costs the membership. Whoever settles waits for a commit; while one is on its way, the next gathers all that came
meanwhile. (The library's calls from two threads wait for each other, in some of its versions for ever: so one thread,
which looks often while something is going on, and seldom otherwise.)

A partition that passes on to another worker is *drained*: nothing more of it is handed out, what runs may finish for a
while, the books are committed, and what is still not settled then is fenced: its ``settle`` answers *lost*.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from ...broker import Subscription
from ...errors import ConnectionFailed
from .book import Book
from .library import AWAY, UNKNOWN_TOPIC, code_of, raised
from .options import LEVELS, KafkaOptions, delay_topics, group_of, retry_topics
from .records import Record

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

    from .topics import Topics

Versions: TypeAlias = dict[Book, tuple[int, int]]

logger = logging.getLogger("penstock")

CHUNK = 1000
SOON, IDLE = 0.002, 0.05  # seconds of one look for records: while something goes on, and when nothing has for a while
AHEAD, AHEAD_BYTES = 4096, 32 * 1024 * 1024  # what is fetched ahead of the handlers, and kept
CROWDED = 0.1  # seconds that the poller waits for room before it pauses partitions, which costs what is under way
AGAIN = 0.05  # seconds before a commit is tried again


class Membership:
    """``lock``: the broker's, which guards all books. ``most``: open records of one partition."""

    def __init__(self, options: KafkaOptions, subscription: Subscription, topic: str, identity: str) -> None:
        self.subscription, self.topic, self.most = subscription, topic, options.in_flight
        self._options = options
        self._delaying = {
            name: level
            for names in (delay_topics(topic), retry_topics(topic, subscription.group))
            for name, level in zip(names, LEVELS, strict=True)
        }
        self.lock = threading.Condition()
        self.books: dict[tuple[str, int], Book] = {}
        self.assigned = threading.Event()
        self.failure: Exception | None = None
        self.missing = False
        self.answered = time.monotonic()
        self._dirty: set[Book] = set()
        self._waiters: list[Callable[[], bool]] = []
        self._bells: list[Callable[[], object]] = []
        self._leaving = self._left = False
        self._turn = 0
        self._consumer = Consumer(self._settings(identity))
        self._stirred = self._not_before = self._polled = 0.0
        self._thread = threading.Thread(target=self._run, name="penstock-kafka", daemon=True)

    @property
    def topics(self) -> list[str]:
        """The stream's topic and those that delay for this group."""
        return [self.topic, *self._delaying]

    def _settings(self, identity: str) -> dict[str, Any]:
        session = round(self._options.session_of(self.subscription.lease) * 1000)
        return {
            "session.timeout.ms": session,
            "heartbeat.interval.ms": max(min(session // 10, 3000), 10),
            "max.poll.interval.ms": max(300_000, session, round(self._options.drain * 2000)),
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 10,
            "fetch.error.backoff.ms": 50,
            "queued.min.messages": 2 * AHEAD,
            "queued.max.messages.kbytes": AHEAD_BYTES // 1024,
            "topic.metadata.refresh.fast.interval.ms": 100,
            **self._options.client(),
            "client.id": identity,
            "group.id": group_of(self.topic, self.subscription.group),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "error_cb": self._failed,
        }

    # ---------------------------------------------------------------------------------------------- joining and leaving

    def join(self, ends: Callable[[Sequence[str]], dict[tuple[str, int], int]]) -> None:
        """Begin. A new group that is to see only what comes next takes down first where that begins. Blocks."""
        if self.subscription.start == "next":
            self._begin_with_the_next(ends)
        self._consumer.subscribe(
            self.topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._thread.start()

    def _begin_with_the_next(self, ends: Callable[[Sequence[str]], dict[tuple[str, int], int]]) -> None:
        found = ends([self.topic, *delay_topics(self.topic)])
        places = [TopicPartition(topic, number) for topic, number in found]
        if any(each.offset >= 0 for each in self._consumer.committed(places, timeout=self._options.timeout)):
            return
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in found.items()]
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def leave(self) -> None:
        """Give back what is held, commit, leave the group. Blocks."""
        with self.lock:
            for book in self.books.values():
                for entry in [entry for entry in book.open.values() if entry.held]:
                    book.give_back(entry)
            self._leaving = True
            self.lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join(self._options.timeout * 2)

    @property
    def ended(self) -> bool:
        """Whether it has left, or had to."""
        return self._left

    def probe(self, topics: Topics) -> None:
        """Ask the server whether it is there. Raises what is wrong; nothing if all is well again. Blocks."""
        failure, self.failure = self.failure, None
        if failure is not None and not isinstance(failure, ConnectionFailed):
            raise failure
        topics.check()
        self.answered = time.monotonic()

    # ------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._leaving:
                self._turn_once()
            self._consumer.close()
        except Exception as error:
            logger.exception("the Kafka consumer of %s ended; it is opened anew with the next fetch", self.topic)
            self.failure = raised(self._options.url, error)
        finally:
            with self.lock:
                for book in self.books.values():
                    book.close()
                self.books.clear()
                self._leaving = self._left = True
                self._wake()
                self._ring()

    def _turn_once(self) -> None:
        with self.lock:
            if self._crowded and not self._dirty:
                self.lock.wait(CROWDED)
            crowded = self._crowded
        self._commit()
        now = time.monotonic()
        if crowded and now - self._polled < CROWDED:
            return
        with self.lock:
            self._balance()
        messages = self._consumer.consume(CHUNK, min(max((now - self._stirred) / 10, SOON), IDLE))
        self._polled = time.monotonic()
        if not messages:
            return
        with self.lock:
            for raw in messages:
                error = raw.error()
                if error is not None:
                    self._complained(error)
                    continue
                book = self.books.get((raw.topic() or "", raw.partition() or 0))
                if book is not None and not book.closing:
                    book.take_in(Record(raw, raw.offset() or 0, self._options.default_type))
            self.answered = self._stirred = time.monotonic()
            self._ring()

    def _complained(self, error: KafkaError) -> None:
        code = error.code()
        if code in UNKNOWN_TOPIC:
            self.missing = True
        elif code not in AWAY:
            self.failure = raised(self._options.url, error)

    def _failed(self, error: KafkaError) -> None:
        """The library cannot do its work for now, or for good. Called on any thread that is in the library."""
        self.failure = raised(self._options.url, error)
        with self.lock:
            self._ring()

    def _balance(self) -> None:
        """Pause partitions that have enough, resume those that have not. What is paused is still polled."""
        total, size = self._load()
        crowded, empty = self._crowded, total <= AHEAD // 4 and size <= AHEAD_BYTES // 2
        stop, go = list[TopicPartition](), list[TopicPartition]()
        for book in self.books.values():
            if not book.paused and (book.full or (crowded and book.fresh)):
                book.paused = True
                stop.append(TopicPartition(book.topic, book.partition))
            elif book.paused and not book.full and (empty or not book.fresh):
                book.paused = False
                go.append(TopicPartition(book.topic, book.partition))
        with contextlib.suppress(Exception):  # no longer assigned: the next rebalance puts it right
            if stop:
                self._consumer.pause(stop)
            if go:
                self._consumer.resume(go)

    def _load(self) -> tuple[int, int]:
        books = self.books.values()
        return sum(len(book.fresh) for book in books), sum(book.bytes for book in books)

    @property
    def _crowded(self) -> bool:
        total, size = self._load()
        return total >= AHEAD or size >= AHEAD_BYTES

    # --------------------------------------------------------------------------------------------------- handing out

    def take(self, limit: int, now: float) -> list[Any]:
        """Entries that are held from now on. The caller has the lock, and waits for their books to be committed."""
        taken = list[Any]()
        books = list(self.books.values())
        if not books:
            return taken
        self._turn = (self._turn + 1) % len(books)
        for book in books[self._turn :] + books[: self._turn]:
            if book.closing or len(taken) >= limit:
                continue
            before = len(taken)
            taken += book.hand_out(limit - len(taken), now)
            if len(taken) > before:
                book.version += 1
                book.promise(len(taken) - before)
        if taken:
            self.lock.notify_all()
        return taken

    def ready(self) -> bool:
        """Whether something may be handed out now, as far as is known without looking closer."""
        return any(book.fresh or book.again for book in self.books.values() if not book.closing)

    def next_due(self) -> float | None:
        """When the next one that waits may be handed out, seconds since the epoch."""
        with self.lock:
            return min((due for book in self.books.values() if (due := book.next_due()) is not None), default=None)

    def reached(self, ends: dict[tuple[str, int], int]) -> bool:
        """Whether all that was there has come, or cannot come because there is enough of it."""
        with self.lock:
            return all(book.next >= ends.get(place, 0) or book.full for place, book in self.books.items())

    def forget_waiting(self) -> dict[Book, int]:
        """Cross out everything that nobody holds."""
        with self.lock:
            for book in self.books.values():
                book.forget_waiting()
            return {book: book.version for book in self.books.values()}

    def listen(self, bell: Callable[[], object]) -> None:
        """Call it, once, when something has come."""
        self._bells.append(bell)

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for bell in bells:
            bell()

    # ------------------------------------------------------------------------------------------------------ committing

    def committed(self, wanted: dict[Book, int]) -> asyncio.Future[None]:
        """Done when the server knows these versions of the books, or another worker has them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not future.done():
                future.set_result(None)

        def check() -> bool:
            if all(book.durable >= version or not book.alive for book, version in wanted.items()):
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(finish)
                return True
            return False

        with self.lock:
            if not check():
                self._waiters.append(check)
                self._dirty.update(wanted)
                self._stirred = time.monotonic()
                self.lock.notify_all()
        return future

    def _wake(self) -> None:
        self._waiters = [check for check in self._waiters if not check()]

    def _durable(self, versions: Versions) -> None:
        self.answered = time.monotonic()
        for book, (version, promised) in versions.items():
            book.durable, book.kept = max(book.durable, version), max(book.kept, promised)
        self._wake()

    def _commit(self) -> None:
        """Write what others wait for.

        It is waited for here: an answer that is called back comes behind all records that are queued in the library.
        """
        with self.lock:
            if not self._dirty or time.monotonic() < self._not_before:
                return
            books = [book for book in self._dirty if book.alive]
            self._dirty.clear()
            self._wake()
            places, versions = _places(books), _versions(books)
            self._stirred = time.monotonic()
        if places and not self._write(places, versions):
            with self.lock:
                self._dirty.update(books)
                self._not_before = time.monotonic() + AGAIN

    def _write(self, places: list[TopicPartition], versions: Versions) -> bool:
        """Commit and wait for it; whether the server has it."""
        try:
            answers = self._consumer.commit(offsets=places, asynchronous=False)
        except Exception as error:  # noqa: BLE001 it is tried again
            logger.debug("a commit failed: %s", error)
            return False
        if any(each.error is not None for each in answers):
            return False
        with self.lock:
            self._durable(versions)
        return True

    # ------------------------------------------------------------------------------------------------------ rebalances

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        found = self._progress(consumer, partitions)
        begin = list[TopicPartition]()
        with self.lock:
            for each in found:
                book = Book(self, each.topic, each.partition, level=self._delaying.get(each.topic))
                book.begin(each.offset, each.metadata)
                self.books[each.topic, each.partition] = book
                at = each.offset if each.offset >= 0 else OFFSET_BEGINNING
                begin.append(TopicPartition(each.topic, each.partition, at))
        consumer.incremental_assign(begin)
        with self.lock:
            self.assigned.set()
            self.answered = time.monotonic()
            self._ring()

    def _progress(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """What the group has committed for them. Beginning without it would run again what is settled: insist."""
        while partitions and not self._leaving:
            try:
                return consumer.committed(partitions, timeout=self._options.timeout)
            except Exception as error:  # noqa: BLE001 the network is down, or a coordinator moves
                if code_of(error) not in AWAY:
                    logger.warning("the progress of %s cannot be read: %s", self.topic, error)
                time.sleep(AGAIN)
        return []

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self.lock:
            books = self._close(partitions)
            deadline = time.monotonic() + self._options.drain
        while any(book.held for book in books) and time.monotonic() < deadline and not self._leaving:
            self._commit()
            with self.lock:
                if not self._dirty:
                    self.lock.wait(IDLE)
        with self.lock:
            places, versions = _places(books), _versions(books)
        for _ in range(3):
            if not places or self._write(places, versions):
                break
        self._forget(books)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group went on without us: what we hold is others' by now."""
        with self.lock:
            books = self._close(partitions)
        self._forget(books)
        consumer.incremental_unassign(partitions)

    def _close(self, partitions: Iterable[TopicPartition]) -> list[Book]:
        books = [self.books[place] for each in partitions if (place := (each.topic, each.partition)) in self.books]
        for book in books:
            book.closing = True
        return books

    def _forget(self, books: Iterable[Book]) -> None:
        with self.lock:
            for book in books:
                book.close()
                if self.books.get((book.topic, book.partition)) is book:
                    del self.books[book.topic, book.partition]
            self._wake()


def _versions(books: Iterable[Book]) -> Versions:
    return {book: (book.version, book.promised) for book in books}


def _places(books: Iterable[Book]) -> list[TopicPartition]:
    places = list[TopicPartition]()
    for book in books:
        offset, text = book.progress()
        places.append(TopicPartition(book.topic, book.partition, offset, text))
    return places
