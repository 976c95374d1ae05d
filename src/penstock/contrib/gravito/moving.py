"""Moves what the original left into an app's broker: claimed, published, and only then removed where it was.

A crash in between leaves jobs that are claimed; the next run begins with them. Where the broker publishes idempotently
those that were published already are not published again; elsewhere, and for jobs of a group, whose key is the group,
some may be there twice, with the same id.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from ...broker import Outgoing
from ...errors import ConfigurationError, PublishError
from ...job_terms import lane
from ...message import Message
from ...queueing.application import App
from ...queueing.cron import next_due
from ...queueing.recurring import Recurring
from .serialized import Serialized, UnreadableError, named, serialized
from .source import Entry, Source, Timetable

Failed: TypeAlias = Literal["keep", "retry"]

REMEMBERED: Final = 7 * 86_400.0  # seconds for which a job that was moved is known to the broker


class Left(msgspec.Struct, frozen=True):
    """What stays where it is, and why."""

    place: str
    reason: str
    raw: str


class Report(msgspec.Struct, kw_only=True):
    """What was moved, or with ``dry_run`` would be. ``moved``: jobs by the queue they are in now.

    ``taken``: jobs that somebody else took meanwhile. ``failed``: those that have failed for good, and stay.
    """

    dry_run: bool
    moved: Counter[str] = msgspec.field(default_factory=Counter[str])
    delayed: int = 0
    schedules: list[str] = msgspec.field(default_factory=list[str])
    failed: int = 0
    taken: int = 0
    paused: list[str] = msgspec.field(default_factory=list[str])
    left: list[Left] = msgspec.field(default_factory=list[Left])

    def leave(self, place: str, reason: object, raw: bytes) -> None:
        """Note what is not moved."""
        self.left.append(Left(place, f"{reason}", raw[:2000].decode(errors="replace")))


class Mover:
    """From one source into one connection of an app. ``failed``: what becomes of jobs that have failed for good.

    ``timezone``: that of the original's processes, for recurring jobs.
    """

    def __init__(
        self,
        source: Source,
        app: App,
        *,
        connection: str | None = None,
        failed: Failed = "keep",
        timezone: str = "UTC",
        dry_run: bool = False,
    ) -> None:
        self._source, self._app, self._broker = source, app, app.broker(connection)
        self._connection = app.default if connection is None else connection
        self._failed, self._timezone = failed, timezone
        self._report = Report(dry_run=dry_run)

    async def run(self) -> Report:
        """Move everything there is now. Raises as the source and the broker do; what was moved by then stays moved."""
        report = self._report
        if not report.dry_run:
            await self._broker.open()
        async for page in self._source.pages():
            wanted = [(entry, item) for entry in page.entries if (item := self._outgoing(entry)) is not None]
            page.left = len(page.entries) if report.dry_run else len(page.entries) - len(wanted)
            for item in self._counted(wanted) if report.dry_run else await self._move(wanted):
                report.moved[item.destination] += 1
                report.delayed += item.delay > 0
        beside = await self._source.beside()
        report.paused = beside.paused
        for timetable in beside.timetables:
            await self._reschedule(timetable)
        return report

    @staticmethod
    def _counted(wanted: Sequence[tuple[Entry, Outgoing]]) -> list[Outgoing]:
        return [item for _, item in wanted]

    def _outgoing(self, entry: Entry) -> Outgoing | None:
        """The job as it is to be published; ``None`` if it stays where it is."""
        if entry.failed and self._failed == "keep":
            self._report.failed += 1
            return None
        try:
            job = serialized(entry.raw)
        except UnreadableError as error:
            self._report.leave(entry.place, error, entry.raw)
            return None
        item = _outgoing(job, entry, time.time())
        can = self._broker.capabilities
        if item.delay > can.max_delay or len(job.body) > can.max_body:
            what = f"delay for {item.delay:.0f} s" if item.delay > can.max_delay else f"take {len(job.body)} bytes"
            self._report.leave(entry.place, f"{self._broker.url} cannot {what}", entry.raw)
            return None
        return item

    async def _move(self, wanted: Sequence[tuple[Entry, Outgoing]]) -> list[Outgoing]:
        """Those that were published."""
        claims = await self._source.claim([entry for entry, _ in wanted])
        mine = [(*each, token) for each, token in zip(wanted, claims, strict=True) if token is not None]
        self._report.taken += len(wanted) - len(mine)
        size, done = self._broker.capabilities.max_batch, list[Outgoing]()
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            fates = await self._publish([self._known(item, token) for _, item, token in part])
            sent = [each for each, fate in zip(part, fates, strict=True) if not isinstance(fate, Exception)]
            await self._source.remove([entry for entry, _, _ in sent], [token for _, _, token in sent])
            done += [item for _, item, _ in sent]
            for (entry, _, _), fate in zip(part, fates, strict=True):
                if isinstance(fate, Exception):
                    self._report.leave(entry.place, f"{self._broker.url} refused it: {fate}", entry.raw)
        return done

    def _known(self, item: Outgoing, token: str) -> Outgoing:
        """With what makes it known to the broker if it is published again, and an id if the original gave it none."""
        message = item.message
        if not message.headers.get("jid"):
            message = replace(message, headers={**message.headers, "jid": f"gravito-{token}"})
        if message.key is not None or not self._broker.capabilities.idempotent:
            return replace(item, message=message)
        return replace(item, message=replace(message, key=f"gravito:{token}"), once=REMEMBERED)

    async def _publish(self, items: Sequence[Outgoing]) -> Sequence[str | Exception]:
        try:
            return await self._broker.publish(items)
        except PublishError as error:
            return error.results

    async def _reschedule(self, timetable: Timetable) -> None:
        try:
            new = self._recurring(timetable)
            if self._report.dry_run:
                next_due(new.cron, new.timezone, time.time())
            else:
                await self._save(new)
                await self._source.forget(timetable)
        except (UnreadableError, ConfigurationError) as error:
            self._report.leave(f"the schedule {timetable.id}", error, timetable.job)
        else:
            self._report.schedules.append(timetable.id)

    async def _save(self, new: Recurring) -> None:
        there = await self._app.schedules.get(new.id)
        if there is not None and _essence(there) != _essence(new):
            raise ConfigurationError("the app has another schedule of this name")
        await self._app.schedules.save(new)

    def _recurring(self, timetable: Timetable) -> Recurring:
        job = serialized(timetable.job)
        return Recurring(
            id=timetable.id,
            cron=timetable.cron,
            timezone=self._timezone,
            connection=self._connection,
            queue=lane(timetable.queue, named(job.priority)),
            name=job.name,
            body=job.body.decode(),
            headers=job.terms.headers(),
            group=job.terms.group,
            enabled=timetable.enabled,
        )


def _outgoing(job: Serialized, entry: Entry, now: float) -> Outgoing:
    due = entry.due
    if due is None and not entry.failed and job.after and job.created_at:
        due = job.created_at + job.after  # its driver has not heeded the delay
    place = entry.priority if entry.priority not in {None, "default"} else job.priority
    message = Message(
        type=job.name,
        body=job.body,
        key=job.terms.group,
        attempt=0 if entry.failed else job.failures,
        enqueued_at=job.created_at,
        headers={**job.terms.headers(), **({} if job.id is None else {"jid": job.id})},
    )
    delay = max(due - now, 0.0) if due is not None else 0.0
    return Outgoing(destination=lane(entry.queue or job.queue or "default", named(place)), message=message, delay=delay)


def _essence(schedule: Recurring) -> tuple[object, ...]:
    return schedule.cron, schedule.timezone, schedule.connection, schedule.queue, schedule.name, schedule.body
