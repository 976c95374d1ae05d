"""Counts executed jobs in a few bytes of memory that the worker shares with whoever measures.

No command to the server, no system call: a handler pays well under a microsecond, the same under every peer.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SIZE = 24  # three integers of eight bytes, each written in one go


@dataclass(frozen=True)
class Reading:
    """How many jobs ran, and when the first and the last of them did (nanoseconds of ``perf_counter_ns``)."""

    count: int
    first: int
    last: int

    @property
    def per_second(self) -> float:
        """From the first executed job to the last: the start-up of a worker is no part of it."""
        return (self.count - 1) / ((self.last - self.first) / 1e9) if self.count > 1 else 0.0


def create(path: Path) -> None:
    """A counter at zero."""
    path.write_bytes(bytes(SIZE))


class Reader:
    """The side that looks on."""

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("Q")

    def read(self) -> Reading:
        """What has been counted so far."""
        return Reading(*self._cells)


class Counter:
    """The side that counts, from any thread of one process."""

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("Q")
        self._lock = threading.Lock()
        self._count = self._first = 0

    def ran(self) -> None:
        """One more job was executed."""
        with self._lock:
            now = time.perf_counter_ns()
            self._first = self._first or now
            self._count += 1
            self._cells[1], self._cells[2] = self._first, now
            self._cells[0] = self._count  # last: who sees this count sees its times as well


URL = os.environ.get("PEERS_URL", "")
ran = Counter(os.environ["PEERS_COUNTER"]).ran if "PEERS_COUNTER" in os.environ else (lambda: None)
