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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ...broker import Subscription
from ...errors import ConnectionFailed
from .book import Book
from .commits import Commits
from .librdkafka import ACTIVE, AWAY, UNKNOWN_TOPIC, code_of, raised
from .options import LEVELS, KafkaOptions, delay_topics, group_of, retry_topics
from .rebalances import Rebalances
from .records import Record

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

    from .topics import Topics

logger = logging.getLogger("penstock")

Bell: TypeAlias = Callable[[], object]

CHUNK = 1000
SOON, IDLE = 0.002, 0.05  # seconds of one look for records: while something goes on, and when nothing has for a while
AHEAD, AHEAD_BYTES = 4096, 32 * 1024 * 1024  # what is fetched ahead of the handlers, and kept
CROWDED = 0.1  # seconds that the poller waits for room before it pauses partitions, which costs what is under way


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
        self.failure: Exception | None = None
        self.missing = False
        self._bells: list[Bell] = []
        self._leaving = self._left = False
        self._turn = 0
        self._consumer = Consumer(
            _settings(options, subscription, topic) | {"client.id": identity, "error_cb": self._failed}
        )
        self._commits = Commits(self._consumer, self.lock)
        self._rebalances = Rebalances(
            options,
            self.books,
            self._commits,
            self.lock,
            make=self._book,
            leaving=lambda: self._leaving,
            tell=self._ring,
        )
        self._rebalances.refused = self._refused
        self._polled = 0.0
        self._thread = threading.Thread(target=self._run, name="penstock-kafka", daemon=True)

    @property
    def topics(self) -> list[str]:
        """The stream's topic and those that delay for this group."""
        return [self.topic, *self._delaying]

    # ---------------------------------------------------------------------------------------------- joining and leaving

    def join(self, ends: Callable[[Sequence[str]], dict[tuple[str, int], int]]) -> None:
        """Begin. A new group that is to see only what comes next takes down first where that begins. Blocks."""
        if self.subscription.start == "next":
            begin_with_the_next(self._consumer, ends([self.topic, *delay_topics(self.topic)]), self._options.timeout)
        each = self._rebalances
        self._consumer.subscribe(self.topics, on_assign=each.come, on_revoke=each.go, on_lost=each.lose)
        self._thread.start()

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
        else:
            self._consumer.close()

    @property
    def assigned(self) -> bool:
        """Whether the group has answered: with partitions, or with none for now."""
        return self._rebalances.assigned.is_set()

    @property
    def silent_for(self) -> float:
        """Seconds since the server's last sign of life."""
        return time.monotonic() - self._commits.answered

    @property
    def refusal(self) -> Exception | None:
        """Why the server did not take the last commit."""
        return self._commits.refusal

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
        self._commits.answered = time.monotonic()

    # ------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._leaving:
                self._turn_once()
            self._consumer.close()
        except Exception as error:
            logger.exception("the Kafka consumer of %s ended; it is opened anew with the next fetch", self.topic)
            self.failure = raised(self._options.url, error)
            with contextlib.suppress(Exception):  # else it would hold its partitions, and nobody work on them
                self._consumer.close()
        finally:
            with self.lock:
                for book in self.books.values():
                    book.close()
                self.books.clear()
                self._leaving = self._left = True
                self._commits.wake()
                self._ring()

    def _turn_once(self) -> None:
        with self.lock:
            if self._crowded and not self._commits.wanted:
                self.lock.wait(CROWDED)
            crowded = self._crowded
        self._commits.commit()
        now = time.monotonic()
        if crowded and now - self._polled < CROWDED:
            return
        with self.lock:
            self._balance()
        messages = self._consumer.consume(CHUNK, min(max((now - self._commits.stirred) / 10, SOON), IDLE))
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
            self._commits.answered = self._commits.stirred = time.monotonic()
            self._ring()

    def _complained(self, error: KafkaError) -> None:
        code = error.code()
        if code in UNKNOWN_TOPIC:
            self.missing = True
        elif code not in AWAY:
            self.failure = raised(self._options.url, error)

    def _refused(self, error: Exception) -> None:
        self.failure = raised(self._options.url, error)
        with self.lock:
            self._ring()

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
        return sum(len(book.fresh) for book in books), sum(book.bytes for book in books if book.level is None)

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

    def listen(self, bell: Bell) -> Bell:
        """Call it, once, when something has come. The caller has the lock."""
        self._bells.append(bell)
        return bell

    def unlisten(self, bell: Bell) -> None:
        """Do not, if it was not called yet. The caller has the lock."""
        if bell in self._bells:
            self._bells.remove(bell)

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for bell in bells:
            bell()

    def committed(self, wanted: dict[Book, int]) -> asyncio.Future[None]:
        """Done when the server knows these versions of the books, or another worker has them."""
        return self._commits.committed(wanted)

    def _book(self, place: TopicPartition) -> Book:
        return Book(self, place.topic, place.partition, level=self._delaying.get(place.topic))


def begin_with_the_next(consumer: Consumer, found: dict[tuple[str, int], int], timeout: float) -> None:
    """Write down where a new group begins: at the ends that were found. Blocks."""
    places = [TopicPartition(topic, number) for topic, number in found]
    if any(each.offset >= 0 for each in consumer.committed(places, timeout=timeout)):
        return
    offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in found.items()]
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        if code_of(error) not in ACTIVE:  # somebody else has begun meanwhile, and said where
            raise


def _settings(options: KafkaOptions, subscription: Subscription, topic: str) -> dict[str, Any]:
    session = round(options.session_of(subscription.lease) * 1000)
    return {
        "session.timeout.ms": session,
        "heartbeat.interval.ms": max(min(session // 10, 3000), 10),
        "max.poll.interval.ms": max(300_000, session, round(options.drain * 2000)),
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 10,
        "fetch.error.backoff.ms": 50,
        "queued.min.messages": 2 * AHEAD,
        "queued.max.messages.kbytes": AHEAD_BYTES // 1024,
        "topic.metadata.refresh.fast.interval.ms": 100,
        **options.client(),
        "group.id": group_of(topic, subscription.group),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
    }
