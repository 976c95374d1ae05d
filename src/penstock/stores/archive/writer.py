"""The writer: takes batches out of the buffer and writes them, for as long as it takes.

It lives on a thread of its own with a connection of its own: a database that is slow or away holds up neither the
program's loop nor a push. A batch that failed stays where it is and is tried again, after pauses that grow. A row that the
database will never take, because it does not fit a column, is singled out and dropped, loudly: its neighbours go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Sequence
from functools import partial

from ...clients.sql import Transactions
from ...clock import Clock
from ...errors import BrokerError
from .buffer import Buffer
from .options import ArchiveOptions
from .rows import LogLine
from .tables import Tables
from .writing import Item, explained, is_refusal, write

logger = logging.getLogger("penstock")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between two tries of a batch
LEAST_PAUSE = 0.05  # of them, those that nobody can shorten


class Writer:
    """``put`` from any thread; everything else on the loop that ``run`` runs on."""

    def __init__(self, runner: Transactions, tables: Tables, options: ArchiveOptions, clock: Clock, name: str) -> None:
        self._runner, self._tables, self._options, self._clock, self._name = runner, tables, options, clock, name
        self.buffer = Buffer(options.buffer_rows, options.buffer_bytes)
        self.error: Exception | None = None  # why the last try failed, while it is so
        self.refused = self.lost = 0
        self._loud = threading.Lock()
        self._since = self._gap = 0.0
        self._hurried = 0
        self._loop = asyncio.get_running_loop()
        self._some, self._full, self._nudge = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def put(self, items: Sequence[Item], *, forced: bool) -> None:
        """Take items in, from any thread."""
        before, waiting = self.buffer.put(items, forced=forced)
        if waiting < before + len(items):
            self._complain()
        if before == 0:
            self._loop.call_soon_threadsafe(self._some.set)
        if before < self._options.batch <= waiting:
            self._loop.call_soon_threadsafe(self._full.set)

    def hurry(self) -> None:
        """Somebody waits: write now, from any thread."""
        self._loop.call_soon_threadsafe(self._hasten)

    def _hasten(self) -> None:
        self._some.set()
        self._full.set()
        self._nudge.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            await _within(self._full, self._options.interval)
            self._full.clear()
            while batch := self.buffer.peek(self._options.batch):
                await self._insist(batch)

    async def _insist(self, batch: Sequence[Item]) -> None:
        """Write a batch, however often it takes."""
        tries = 0
        while True:
            self._nudge.clear()
            try:
                await self._write(batch, doubtful=tries > 0)
            except Exception as error:  # noqa: BLE001 whatever is wrong, what was promised is tried again
                self._failed(error, tries)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 -- out of step with others
                tries += 1
                await asyncio.sleep(LEAST_PAUSE)  # whoever is in a hurry must not make it a busy loop
                await _within(self._nudge, pause)
            else:
                self.buffer.remove(len(batch))
                self._recovered()
                return

    async def _write(self, batch: Sequence[Item], *, doubtful: bool) -> None:
        try:
            await self._runner.run(partial(write, tables=self._tables, items=batch, doubtful=doubtful))
        except BrokerError as error:
            if not is_refusal(error):
                raise explained(error, self._options.table) from error
            if len(batch) == 1:
                self._refuse(batch[0], error)
                return
            middle = len(batch) // 2
            await self._write(batch[:middle], doubtful=doubtful)
            await self._write(batch[middle:], doubtful=doubtful)

    def _refuse(self, item: Item, error: BrokerError) -> None:
        self.refused += 1
        what = item.message[:80] if isinstance(item, LogLine) else f"{item.status} of {item.job_id} in {item.queue}"
        logger.error("%s refused a row, which is dropped (%s): %s", self._name, what, error)

    def _failed(self, error: Exception, tries: int) -> None:
        if self.error is None:
            self._since = self._clock.monotonic()
            unexpected = None if isinstance(error, BrokerError) else error
            logger.error("%s cannot be written, trying again: %s", self._name, error, exc_info=unexpected)
        self.error = error
        self.buffer.failed(error)

    def _recovered(self) -> None:
        if self.error is not None:
            logger.warning("%s is back after %.1f s", self._name, self._clock.monotonic() - self._since)
            self.error = None
        if dropped := self.buffer.take_dropped():
            with self._loud:
                since, self._gap = self._gap, 0.0
            self.lost += dropped
            now = self._clock.time()
            text = f"{dropped} events of jobs are not in the archive: its buffer was full for up to {now - since:.0f} s"
            logger.error("%s: %s", self._name, text)
            line = LogLine(level="error", message=text, worker_id="penstock archive", timestamp=now)
            self.put((line,), forced=True)

    def _complain(self) -> None:
        """The buffer is full: say so when it begins, and count."""
        with self._loud:
            if self._gap:
                return
            self._gap = self._clock.time()
        text = "%s: its buffer is full, what comes now is dropped and counted; the database: %s"
        logger.error(text, self._name, self.error or "is too slow")


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for it, but not for longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
