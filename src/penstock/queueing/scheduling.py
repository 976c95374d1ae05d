"""The half of an app that is about recurring jobs."""

from __future__ import annotations

from ..audit import Audited
from ..broker import Outgoing
from ..clock import SYSTEM_CLOCK, Clock
from ..job import Job
from ..message import Message
from .connections import Connections
from .pushing import checked
from .recurring import REMEMBERED, Recurring, Schedules


class Scheduling:
    """What an ``App`` does by the clock."""

    _connections: Connections
    _schedules: Schedules | None = None
    _clock: Clock = SYSTEM_CLOCK

    @property
    def schedules(self) -> Schedules:
        """The recurring jobs of all apps with the same store. Raises ``ConfigurationError`` if it can keep none."""
        if self._schedules is None:
            store = self._connections.store("recurring jobs")
            self._schedules = Schedules(store, store, self._recur, self._clock)
        return self._schedules

    async def schedule(
        self, ident: str, cron: str, job: Job, *, timezone: str = "UTC", enabled: bool | None = None
    ) -> Recurring:
        """Push ``job`` again and again, whenever ``cron`` is due: an id of yours, five fields, or six with seconds.

        Workers of this app fire it, each moment once however many they are; the same id puts the new schedule in the
        place of the old, which stays disabled if it was, unless ``enabled`` says otherwise. Raises
        ``ConfigurationError`` for what is no cron expression or time zone.
        """
        terms = checked(job).terms
        return await self.schedules.save(
            Recurring(
                id=ident,
                cron=cron,
                timezone=timezone,
                connection=self._connections.known(terms.connection),
                queue=terms.lane,
                name=job.wire_name,
                body=job.fields().encode(job).decode(),
                headers=terms.headers(),
                group=terms.group,
            ),
            enabled=enabled,
        )

    async def _recur(self, schedule: Recurring, jid: str) -> None:
        broker, archive = self._connections.broker(schedule.connection), self._connections.archive
        await broker.open()
        message = Message(
            type=schedule.name,
            body=schedule.body.encode(),
            key=schedule.group or jid,
            enqueued_at=self._clock.time(),
            headers={**schedule.headers, "jid": jid, "schedule": schedule.id},
        )
        once = REMEMBERED if schedule.group is None and broker.capabilities.idempotent else None
        publish = broker.publish if archive is None else Audited(broker, archive).publish
        await publish([Outgoing(destination=schedule.queue, message=message, once=once)])
