"""The archive of jobs: an object that producers and consumers are given, and that people ask afterwards.

::

    archive = Archive.from_url("postgresql://…", audit="async", retention=30 * 86400)
    Producer(broker, "mails", Mail, archive=archive)
    Consumer(broker, "mails", Mail, send, archive=archive)
    await archive.find("mails", ident)

It belongs to no event loop. Its connection and its writer live on a thread that begins with the first use and ends with
``close``, or with the interpreter, which waits a few seconds for what is still to be written. A fork begins its own.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Sequence
from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar

from ...broker import Outgoing, Settlement
from ...checks import at_least_one, known, positive
from ...clients.sql import SqlOptions, Transactions, Work
from ...clock import SYSTEM_CLOCK, Clock
from ...config import mask_url
from ...errors import BrokerError, ConfigurationError, ConnectionFailed
from . import reading
from .engine import FAREWELL, Engine, runner
from .events import Events
from .options import ArchiveOptions
from .reading import LogsWanted, Wanted
from .rows import ArchivedJob, LogLine
from .tables import tables
from .writer import Writer
from .writing import Item, explained

T = TypeVar("T")

logger = logging.getLogger("penstock")

PRUNED = 1000  # rows that one step of a cleanup deletes


class Archive:
    """Rows of what has happened to jobs; see ``ArchiveOptions`` for the options.

    For producers and consumers it is an ``Audit``. All questions are answered newest first, with what this process has
    told so far. They raise ``ConnectionFailed``, ``AccessDenied``, ``BrokerError``.
    """

    def __init__(self, url: str, options: ArchiveOptions, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url, self.options, self._clock = url, options, clock
        self._tables = tables(options.table, options.logs_table)
        self.dialect, self._make = runner(url, options.timeout)
        self._sync, self._events = options.audit == "sync", Events(options)
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> Self:
        """An archive at ``url``: ``sqlite:///file.db``, ``postgresql://…`` or ``mysql://…``; not connected yet.

        ``options`` are those of ``ArchiveOptions``; ``retention`` may be a ``timedelta``. Raises ``InvalidURL``,
        ``MissingExtra``, ``ConfigurationError``.
        """
        known("an archive", options, [each.name for each in fields(ArchiveOptions)])
        if isinstance(options.get("retention"), timedelta):
            options["retention"] = options["retention"].total_seconds()
        return cls(url, ArchiveOptions(**options), clock=clock)

    def __repr__(self) -> str:
        return f"Archive({self.url!r})"

    @property
    def url(self) -> str:
        """The address, password masked."""
        return mask_url(self._url)

    @property
    def file(self) -> str | None:
        """The database's file, if it is one."""
        return SqlOptions.from_url(self._url).path if self.dialect == "sqlite" else None

    @property
    def retention(self) -> float | None:
        """Seconds that rows are kept, ``None`` for ever."""
        return self.options.retention

    @property
    def pending(self) -> int:
        """Rows that wait to be written."""
        return 0 if self._engine is None else len(self._engine.writer.buffer)

    @property
    def dropped(self) -> int:
        """Rows that met a full buffer, since it was opened."""
        engine = self._engine
        return 0 if engine is None else engine.writer.lost + engine.writer.buffer.dropped

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --------------------------------------------------------------------------------------------------------- the record

    def check(self) -> None:
        """With ``sync``: raises ``ConnectionFailed`` while the last try to write has failed."""
        engine = self._engine
        if engine is None or not (self._sync and self.options.archive_enqueued):
            return
        if engine.writer.error is not None:
            engine.writer.hurry()  # the next one may find it back
            raise ConnectionFailed(f"nothing was published, the archive cannot record it: {engine.writer.error}")

    def enqueued(self, outgoings: Sequence[Outgoing], ids: Sequence[str]) -> Awaitable[None] | None:
        """Told by producers. See ``Audit``."""
        return self._tell(self._events.enqueued(outgoings, ids, self._clock.time()), patient=False)

    def settled(self, settlements: Sequence[Settlement[Any]], *, confirmed: bool) -> Awaitable[None] | None:
        """Told by consumers. See ``Audit``."""
        return self._tell(self._events.settled(settlements, self._clock.time(), confirmed=confirmed), patient=True)

    async def archive_log(
        self, level: str, message: str, *, worker_id: str, queue: str | None = None, timestamp: float | None = None
    ) -> None:
        """Add a line to the system's log; with ``sync`` it is written then."""
        now = self._clock.time() if timestamp is None else timestamp
        line = LogLine(level=level, message=message, worker_id=worker_id, queue=queue, timestamp=now)
        written = self._tell([line], patient=False)
        if written is not None:
            await written

    async def flush(self, within: float | None = None) -> bool:
        """Write what waits; whether nothing is left, after ``within`` seconds (by default the timeout) at most."""
        engine = self._engine
        if engine is None or not len(engine.writer.buffer):
            return True
        future = engine.writer.buffer.written(patient=True)
        engine.writer.hurry()
        try:
            async with asyncio.timeout(self.options.timeout if within is None else within):
                await asyncio.wrap_future(future)
        except TimeoutError:
            return False
        return True

    async def close(self, within: float | None = None) -> bool:
        """Write what waits, and hang up. Whether nothing was left; what was is lost, and said so. Idempotent."""
        clean = await self.flush(within)
        engine, self._engine = self._engine, None
        _living.discard(self)
        if engine is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._end, engine)
        return clean

    # ------------------------------------------------------------------------------------------------------ the questions

    async def find(self, queue: str, job_id: str) -> ArchivedJob | None:
        """The last word about a job."""
        return await self._ask(partial(reading.find, tables=self._tables, queue=queue, job_id=job_id))

    async def list(
        self, queue: str | None = None, *, limit: int = 50, offset: int = 0, **wanted: Any
    ) -> Sequence[ArchivedJob]:
        """Rows, also by ``status``, ``job_id``, ``start_time``, ``end_time`` (seconds since the epoch)."""
        return await self._page(_wanted("list", queue, wanted), limit, offset)

    async def search(
        self, text: str, *, queue: str | None = None, limit: int = 50, offset: int = 0, **wanted: Any
    ) -> Sequence[ArchivedJob]:
        """Rows whose job id begins with ``text``, or whose payload or error holds it; also chosen as by ``list``.

        With ``ids_only=True`` only the former, which the index finds; a payload is looked for row by row.
        """
        chosen = _wanted("search", queue, {**wanted, "text": text})
        return await self._page(chosen, limit, offset)

    async def count(self, queue: str | None = None, **wanted: Any) -> int:
        """How many rows; chosen as by ``list``, and by ``text`` as by ``search``."""
        chosen = _wanted("count", queue, wanted)
        return await self._ask(partial(reading.count, tables=self._tables, wanted=chosen))

    async def list_logs(self, *, limit: int = 50, offset: int = 0, **wanted: Any) -> Sequence[LogLine]:
        """Lines, by ``level``, ``worker_id``, ``queue``, ``search``, ``start_time``, ``end_time``."""
        _check_page(limit, offset)
        chosen = _logs_wanted("list_logs", wanted)
        return await self._ask(
            partial(reading.list_logs, tables=self._tables, wanted=chosen, limit=limit, offset=offset)
        )

    async def count_logs(self, **wanted: Any) -> int:
        """How many lines; chosen as by ``list_logs``."""
        chosen = _logs_wanted("count_logs", wanted)
        return await self._ask(partial(reading.count_logs, tables=self._tables, wanted=chosen))

    # ------------------------------------------------------------------------------------------------------ the housekeeping

    async def setup(self) -> Sequence[str]:
        """Make the tables and indexes that are missing; their names."""
        return await self._run(self._tables.ensure)

    def statements(self) -> Sequence[str]:
        """The SQL of ``setup``, for whoever runs it by hand."""
        return [*self._tables.statements(self.dialect)]

    async def cleanup(self, older_than: float | timedelta) -> int:
        """Delete jobs and lines older than so many seconds, step by step; how many rows."""
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        positive("older_than, in seconds,", seconds)
        before, deleted = self._clock.time() - seconds, 0
        await self.flush()
        while step := await self._delete(before):
            deleted += step
        return deleted

    async def prune(self) -> int:
        """One step of the cleanup that ``retention`` asks for; how many rows. Called by workers."""
        if self.options.retention is None:
            return 0
        return await self._delete(self._clock.time() - self.options.retention)

    async def _delete(self, before: float) -> int:
        jobs, logs = self._tables.jobs, self._tables.logs
        for table, moment in ((jobs, jobs.c.archived_at), (logs, logs.c.timestamp)):
            steps = partial(reading.delete_older, table=table, moment=moment, before=before, most=PRUNED)
            if deleted := await self._run(steps):
                return deleted
        return 0

    # ------------------------------------------------------------------------------------------------------ the machinery

    def _tell(self, items: Sequence[Item], *, patient: bool) -> Awaitable[None] | None:
        """Hand items to the writer; with ``sync``, what ends when they are written."""
        if not items:
            return None
        writer = self._begun().writer
        writer.put(items, forced=self._sync)
        if not self._sync:
            return None
        future = writer.buffer.written(patient=patient)
        writer.hurry()
        return asyncio.wrap_future(future)

    async def _ask(self, work: Work[T]) -> T:
        """Answer a question, after what has been told."""
        await self.flush()
        return await self._run(work, write=False)

    async def _page(self, wanted: Wanted, limit: int, offset: int) -> Sequence[ArchivedJob]:
        _check_page(limit, offset)
        return await self._ask(partial(reading.listed, tables=self._tables, wanted=wanted, limit=limit, offset=offset))

    async def _run(self, work: Work[T], *, write: bool = True) -> T:
        engine = self._begun()
        try:
            return await engine.thread.run(engine.runner.run(work, write=write))
        except BrokerError as error:
            raise explained(error, self.options.table) from error

    def _begun(self) -> Engine:
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    self._engine = Engine(self._make, self._writer)
                    _living.add(self)
        return self._engine

    def _writer(self, made: Transactions) -> Writer:
        return Writer(made, self._tables, self.options, self._clock, f"the archive {self.url}")

    def _end(self, engine: Engine) -> None:
        """Hang up, and say what was left."""
        if left := len(engine.writer.buffer):
            logger.error("%d rows of the archive %s were not written: %s", left, self.url, engine.writer.error)
        engine.end()

    def forked(self) -> None:
        """We are a child: the thread is not here, and what it has not written is the parent's to write."""
        self._lock, self._engine = threading.Lock(), None
        self._events.renew()

    def farewell(self) -> None:
        """The interpreter ends: write what can be written. Blocks."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.flushed(FAREWELL)
            self._end(engine)


def _wanted(method: str, queue: str | None, given: dict[str, Any]) -> Wanted:
    known(f"Archive.{method}", given, ("status", "job_id", "start_time", "end_time", "text", "ids_only"))
    times = {"start": given.pop("start_time", None), "end": given.pop("end_time", None)}
    return Wanted(queue=queue, **times, **given)


def _logs_wanted(method: str, given: dict[str, Any]) -> LogsWanted:
    known(f"Archive.{method}", given, ("level", "worker_id", "queue", "search", "start_time", "end_time"))
    times = {"start": given.pop("start_time", None), "end": given.pop("end_time", None)}
    return LogsWanted(**times, **given)


def _check_page(limit: int, offset: int) -> None:
    at_least_one("limit, the rows of one page,", limit)
    if offset < 0:
        raise ConfigurationError(f"offset, the rows left out, is 0 or more, got {offset}")


_living: set[Archive] = set()  # those in use: what they hold must not go with a variable


def _all_forked() -> None:
    for archive in list(_living):
        archive.forked()
    _living.clear()


@atexit.register
def _farewells() -> None:
    for archive in list(_living):
        archive.farewell()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
