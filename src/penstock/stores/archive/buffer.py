"""What waits to be written, in order, bounded; any thread may put, one writer takes.

The rule at the limit: what comes to a full buffer is not taken, and counted. What was taken stays until it is written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import islice

from .writing import Item

WRITTEN_BYTES = 4 * 1024 * 1024  # most of one transaction: a server's packets have a limit


class Buffer:
    """``rows``, ``size`` (bytes): most that may wait, if it is not ``forced``."""

    def __init__(self, rows: int, size: int) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._put = self._gone = 0  # items so far, in and out
        self._waiting: list[tuple[int, Future[None], bool]] = []
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[Item], *, forced: bool = False) -> tuple[int, int]:
        """Take what there is room for; how many items waited before, and do now."""
        with self._lock:
            before = len(self._items)
            for item in items:
                if not forced and (len(self._items) >= self._most_rows or self._bytes >= self._most_bytes):
                    self.dropped += 1
                    continue
                self._items.append(item)
                self._bytes += item.size
                self._put += 1
            return before, len(self._items)

    def written(self, *, patient: bool) -> Future[None]:
        """Ends when everything put so far is written; or, if not ``patient``, with the error of the next try."""
        future: Future[None] = Future()
        with self._lock:
            if self._items:
                self._waiting.append((self._put, future, patient))
                return future
        future.set_result(None)
        return future

    def peek(self, most: int) -> list[Item]:
        """The oldest items, as many as one transaction should have."""
        with self._lock:
            found, size = list[Item](), 0
            for item in islice(self._items, most):
                size += item.size
                if found and size > WRITTEN_BYTES:
                    break
                found.append(item)
            return found

    def remove(self, count: int) -> None:
        """The oldest ``count`` are written, or never can be."""
        with self._lock:
            for _ in range(count):
                self._bytes -= self._items.popleft().size
            self._gone += count
            ready = [each for each in self._waiting if each[0] <= self._gone]
            self._waiting = [each for each in self._waiting if each[0] > self._gone]
        for _, future, _ in ready:
            _resolve(future, None)

    def failed(self, error: Exception) -> None:
        """A try to write has failed: tell who does not want to wait for another."""
        with self._lock:
            told = [future for _, future, patient in self._waiting if not patient]
            self._waiting = [each for each in self._waiting if each[2] and not each[1].cancelled()]
        for future in told:
            _resolve(future, error)

    def take_dropped(self) -> int:
        """How many were dropped since this was last asked."""
        with self._lock:
            dropped, self.dropped = self.dropped, 0
            return dropped


def _resolve(future: Future[None], error: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
