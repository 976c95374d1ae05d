"""The books of one partition: what has come, what is handed out, what waits, what is settled.

A record is ``fresh`` when it has come and nobody has seen it; once it was handed out or set aside it is ``open`` until it
is settled. Offsets only grow, so everything below the first open or fresh record is settled, and so is everything
between that is not open: the completed set needs no place of its own. With ``keyed`` a record is set aside while an
earlier one of its key is open. No I/O and no lock here: whoever calls has the broker's lock.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ...broker import Subscription
from ...message import Message
from .progress import Note, Runs, pack, unpack

if TYPE_CHECKING:
    from .records import Record


MOST_BYTES = 64 * 1024 * 1024  # of bodies that wait in one partition for their time or their turn
FAST = 50  # handed out at once: from here on what comes next is counted beforehand


class Owner(Protocol):
    """Whose books these are: ``lock`` guards them, ``most`` is the limit of one partition's open records."""

    subscription: Subscription
    topic: str
    most: int
    lock: threading.Condition

    @property
    def refusal(self) -> Exception | None:
        """Why the server did not take the last commit."""
        ...

    def committed(self, wanted: dict[Book, int]) -> asyncio.Future[None]:
        """Done when the server knows these versions of the books, or another worker has them."""
        ...


class Entry:
    """One record in one state. ``message`` is read when it is first needed; ``count``: handings-over, this one included.

    ``first``: nobody had it before. ``held``: somebody has it and may settle it. ``unsure``: settled, and not yet known whether the server knows.
    A record that is handed out anew is a new entry: the old one settles nothing any more.
    """

    __slots__ = (
        "attempt",
        "book",
        "count",
        "defect",
        "due",
        "first",
        "held",
        "key",
        "message",
        "offset",
        "record",
        "unsure",
    )

    def __init__(self, book: Book, record: Record, message: Message, defect: str | None) -> None:
        self.book, self.record, self.message, self.defect = book, record, message, defect
        self.offset: int = record.offset
        self.key: str | None = message.key
        self.count = 0
        self.attempt: int | None = None  # of the next execution, where it waits for one in place
        self.due: float | None = None
        self.held = self.unsure = self.first = False

    def renewed(self) -> Entry:
        """The same record, for another handing-over."""
        other = Entry(self.book, self.record, self.message, self.defect)
        other.count, other.attempt, other.due = self.count, self.attempt, self.due
        return other


class Book:
    """``delaying``: records here have a time before which they are not handed out. ``level``: seconds that one stays."""

    def __init__(self, owner: Owner, topic: str, partition: int, *, level: int | None = None) -> None:
        self.owner, self.topic, self.partition, self.level = owner, topic, partition, level
        self.keyed = owner.subscription.keyed and level is None
        self.alive, self.closing, self.paused = True, False, False
        self.next = self.until = 0
        self.version = self.durable = 0
        self.promised = self.kept = 0
        self.held = 0
        self.bytes = 0
        self.open: dict[int, Entry] = {}
        self.fresh: deque[Record] = deque()
        self.again: deque[Entry] = deque()
        self.known: dict[int, Note] = {}
        self._due: list[tuple[float, int, Entry]] = []
        self._busy: dict[str, deque[Entry]] = {}

    def begin(self, offset: int, text: str | None) -> None:
        """Go on where the group has come to."""
        self.next = max(offset, 0)
        self.until, self.known = unpack(self.next, text)

    # ---------------------------------------------------------------------------------------------------------- coming

    def take_in(self, record: Record) -> bool:
        """A record has come; false if it was settled before."""
        offset = record.offset
        if offset < self.next:
            return False
        self.next = offset + 1
        if offset >= self.until and self.level is None:
            self.fresh.append(record)
            self.bytes += record.size
            return True
        note = Note() if offset >= self.until else self._note(offset)
        if note is None:
            return False
        self.set_aside(record, note)
        return True

    def _note(self, offset: int) -> Note | None:
        while self.known and (first := next(iter(self.known))) < offset:
            del self.known[first]  # the server has it no more
        return self.known.pop(offset, None)

    def set_aside(self, record: Record, note: Note) -> None:
        """Keep it until it is due, or in front of what is fresh."""
        message, extra, defect = record.read()
        if note.attempt is not None:
            message = _aged(message, note.attempt, message.enqueued_at)
        entry = Entry(self, record, message, defect)
        entry.count = note.deliveries or extra.deliveries
        entry.attempt, entry.due = note.attempt, note.due or extra.due or None
        self.open[entry.offset] = entry
        self.bytes += record.size
        if self.keyed and entry.key is not None:
            line = self._busy.setdefault(entry.key, deque())
            line.append(entry)
            if len(line) > 1:
                return
        self._line_up(entry)

    def _line_up(self, entry: Entry) -> None:
        if entry.due is None:
            self.again.append(entry)
        else:
            heapq.heappush(self._due, (entry.due, entry.offset, entry))

    # ------------------------------------------------------------------------------------------------------ handing out

    def hand_out(self, limit: int, now: float) -> Iterator[Entry]:
        """Up to ``limit`` that may be handed out now."""
        while self._due and self._due[0][0] <= now:
            self.again.append(heapq.heappop(self._due)[2])
        while limit > 0 and (entry := self._next()) is not None:
            if self.keyed and not self._may_go(entry):
                continue
            entry.count += 1
            entry.held = True
            self.held += 1
            limit -= 1
            yield entry

    def _next(self) -> Entry | None:
        while self.again:
            entry = self.again.popleft()
            if self.open.get(entry.offset) is entry:
                return entry
        if not self.fresh:
            return None
        record = self.fresh.popleft()
        message, _, defect = record.read()
        entry = self.open[record.offset] = Entry(self, record, message, defect)
        entry.first = True
        return entry

    def _may_go(self, entry: Entry) -> bool:
        if entry.key is None:
            return True
        line = self._busy.get(entry.key)
        if line is None:
            self._busy[entry.key] = deque((entry,))
            return True
        if line[0].offset == entry.offset:  # it is its turn, and was before
            line[0] = entry
            return True
        line.append(entry)
        return False

    def promise(self, count: int) -> None:
        """Count what will be handed out next as handed out already, when it goes that fast: nobody has to wait then."""
        if count >= FAST and self.fresh:
            self.promised = self.fresh[min(count, len(self.fresh)) - 1].offset + 1

    def told(self, entry: Entry) -> bool:
        """Whether the server knows that this one was handed out."""
        return entry.count == 1 and entry.first and entry.offset < self.kept

    def next_due(self) -> float | None:
        """When the next one may be handed out, ``None`` if none waits for its time."""
        return self._due[0][0] if self._due else None

    # --------------------------------------------------------------------------------------------------------- settling

    def holds(self, entry: Entry) -> bool:
        return self.alive and entry.held and self.open.get(entry.offset) is entry

    def settle(self, entry: Entry) -> None:
        """It is done with, for this group."""
        del self.open[entry.offset]
        self.bytes -= entry.record.size
        if entry.held:
            entry.held = False
            self.held -= 1
        self.version += 1
        if self.keyed and entry.key is not None:
            self._turn(entry)

    def _turn(self, entry: Entry) -> None:
        line = self._busy.get(entry.key or "")
        if line is None or line[0].offset != entry.offset:
            return
        line.popleft()
        if line:
            self._line_up(line[0])
        else:
            del self._busy[entry.key or ""]

    def give_back(self, entry: Entry, *, delay: float = 0.0, now: float = 0.0, attempt: int | None = None) -> None:
        """Hand it out again, as if it had not been; or, with an ``attempt``, as that one after ``delay``."""
        entry.held = False
        self.held -= 1
        self.version += 1
        other = self.open[entry.offset] = entry.renewed()
        if attempt is None:
            other.count -= 1
        else:
            other.count, other.attempt, other.due = 0, attempt, now + delay
            other.message = _aged(entry.message, attempt, now)
        if delay > 0:
            other.attempt, other.due = other.message.attempt, now + delay
            heapq.heappush(self._due, (now + delay, other.offset, other))
        else:
            self.again.appendleft(other)

    def stale(self, now: float) -> list[Entry]:
        """What has been here for its time and must go on to another topic, so that what is behind it is not late."""
        if self.level is None or not self.full:
            return []
        before = now - self.level
        return [entry for _, _, entry in self._due if entry.record.written_at <= before]

    def forget_waiting(self) -> None:
        """Cross out everything that nobody holds."""
        self.fresh.clear()
        self.version += 1
        for entry in [entry for entry in self.open.values() if not entry.held]:
            self.settle(entry)

    @property
    def full(self) -> bool:
        """Whether no more is to come for now."""
        if len(self.open) + len(self.fresh) >= self.owner.most:
            return True
        return self.bytes >= MOST_BYTES and (self.level is not None or self.keyed)

    # ---------------------------------------------------------------------------------------------------------- telling

    def progress(self) -> tuple[int, str]:
        """What to commit: the offset below which everything is settled, and the text for what lies beyond."""
        begin = self.fresh[0].offset if self.fresh else self.next
        mark = max(self.until, begin)
        low = min(next(iter(self.open), mark), next(iter(self.known), mark))
        runs = Runs(low)
        add = runs.add
        for offset, entry in self.open.items():
            add(offset, entry.count, entry.attempt, entry.due)
        for offset, note in self.known.items():
            add(offset, *note)
        if self.promised > mark:
            for record in self.fresh:
                if record.offset >= self.promised:
                    break
                add(record.offset, 1)
            mark = self.promised
        return low, pack(low, mark, runs.runs)

    def close(self) -> None:
        """Another one has the partition."""
        self.alive = False
        self.fresh.clear()
        self.again.clear()
        self._due.clear()
        self.held = self.bytes = 0


def _aged(message: Message, attempt: int, now: float | None) -> Message:
    return Message(
        id=message.id,
        type=message.type,
        body=message.body,
        key=message.key,
        attempt=attempt,
        enqueued_at=now,
        headers=message.headers,
    )
