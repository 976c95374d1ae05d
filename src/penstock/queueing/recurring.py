"""Recurring jobs: schedules that all workers share, each due moment fired once.

A schedule is a row in a store. Whoever finds it due reserves that very moment, pushes the job, marks the moment as done
and moves the schedule on: workers that look at the same time get nothing, and one that dies on the way leaves a
reservation that lapses, so that another fires in its place. The id of a job is that of its schedule and moment: one that
is pushed a second time, because it is not known whether the first push arrived, is known by it. Moments that were missed,
because no worker ran, come together in one.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from ..clock import Clock
from ..errors import ConfigurationError, PenstockError
from ..store import Claim, Store, SupportsTables
from .cron import next_due

logger = logging.getLogger("penstock")

TABLE: Final = "schedules"
RESERVED: Final = 60.0  # seconds until another worker fires what one that died had begun to
REMEMBERED: Final = 86_400.0
LONGEST_LOOK: Final = 5.0  # seconds until a schedule that somebody else has registered is seen


class Recurring(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule. ``name`` and ``body``: the job, as messages carry it; ``headers``, ``group``: with it.

    ``next_run``, ``last_run``: seconds since the epoch, ``None`` if there is none.
    """

    id: str
    cron: str
    timezone: str
    connection: str
    queue: str
    name: str
    body: str
    headers: dict[str, object]
    group: str | None = None
    enabled: bool = True
    next_run: float | None = None
    last_run: float | None = None


_decoder = msgspec.json.Decoder(Recurring)


class Schedules:
    """``push`` sends what a schedule is about; it is given the schedule and the id of the job to be."""

    name = "recurring jobs"
    stream = TABLE

    def __init__(
        self, tables: SupportsTables, keys: Store, push: Callable[[Recurring, str], Awaitable[None]], clock: Clock
    ) -> None:
        self._tables, self._keys, self._push, self._clock = tables, keys, push, clock
        self._owner = secrets.token_hex(8)
        self._pushed: dict[str, float] = {}  # moments that may not be marked as done yet
        self._firing: set[str] = set()  # several workers of one process may share this object
        self._unreadable: dict[str, bytes] = {}

    async def save(self, schedule: Recurring, *, enabled: bool | None = None) -> Recurring:
        """Add a schedule, or put it in the place of the one with its id. Raises ``ConfigurationError``.

        One that is there already with the same cron expression and time zone keeps its next moment, and unless
        ``enabled`` says otherwise stays as it was, on or off: a program that registers its schedules at each start
        changes nothing.
        """
        due = next_due(schedule.cron, schedule.timezone, self._clock.time())
        if due is None:
            raise ConfigurationError(f"{schedule.cron!r} is never due")
        while True:
            raw = (await self._tables.rows(TABLE)).get(schedule.id)
            known = None if raw is None else self._read(schedule.id, raw)
            new = replace(schedule, next_run=due, enabled=schedule.enabled if enabled is None else enabled)
            if known is not None:
                new = replace(new, last_run=known.last_run, enabled=known.enabled if enabled is None else enabled)
                if _same(known, new) and known.enabled == new.enabled and known.next_run is not None:
                    new = replace(new, next_run=known.next_run)
            if await self._tables.put(TABLE, schedule.id, msgspec.json.encode(new), raw):
                return new

    async def remove(self, ident: str) -> bool:
        """Forget a schedule; false if there was none."""
        raw = (await self._tables.rows(TABLE)).get(ident)
        return raw is not None and await self._tables.put(TABLE, ident, None)

    async def get(self, ident: str) -> Recurring | None:
        """The schedule with this id, if there is one that can be read."""
        raw = (await self._tables.rows(TABLE)).get(ident)
        return None if raw is None else self._read(ident, raw)

    async def list(self) -> Sequence[Recurring]:
        """All schedules, by id."""
        rows = await self._tables.rows(TABLE)
        return [each for ident, raw in sorted(rows.items()) if (each := self._read(ident, raw)) is not None]

    async def enable(self, ident: str, *, on: bool = True) -> bool:
        """Let a schedule fire, from its next moment on, or no more; false if there is none."""
        while (raw := (await self._tables.rows(TABLE)).get(ident)) is not None:
            known = self._read(ident, raw)
            if known is None:
                return False
            due = next_due(known.cron, known.timezone, self._clock.time())
            new = replace(known, enabled=on, next_run=due if on and not known.enabled else known.next_run)
            if await self._tables.put(TABLE, ident, msgspec.json.encode(new), raw):
                return True
        return False

    async def run_now(self, ident: str) -> str:
        """Push a schedule's job now, whatever its next moment; the job's id. Raises ``ConfigurationError``."""
        schedule = await self.get(ident)
        if schedule is None:
            raise ConfigurationError(f"there is no schedule {ident!r}")
        await self._push(schedule, jid := secrets.token_hex(12))
        return jid

    async def tick(self) -> int:
        """Fire what is due; how many."""
        return (await self._look())[0]

    async def run_once(self) -> float:
        """As a role beside a worker: fire what is due; the seconds until the next look."""
        return (await self._look())[1]

    async def _look(self) -> tuple[int, float]:
        fired, pause = 0, LONGEST_LOOK
        for ident, raw in (await self._tables.rows(TABLE)).items():
            schedule = self._read(ident, raw)
            if schedule is None or not schedule.enabled or schedule.next_run is None:
                continue
            now = self._clock.time()
            if schedule.next_run > now:
                pause = min(pause, schedule.next_run - now)
                continue
            if ident in self._firing:
                continue
            self._firing.add(ident)
            try:
                fired += await self._fire(schedule, raw)
            except PenstockError as error:  # the others are due all the same; this one is at the next look
                logger.warning("the schedule %s did not fire: %s", ident, error)
                pause = min(pause, 1.0)
            finally:
                self._firing.discard(ident)
        return fired, pause

    async def _fire(self, schedule: Recurring, raw: bytes) -> int:
        moment, now = schedule.next_run or 0.0, self._clock.time()
        later = next_due(schedule.cron, schedule.timezone, now)  # what is wrong with it shows before anything is pushed
        key = f"schedule:{schedule.id}:{moment}"
        claim = await self._keys.reserve(key, self._owner, RESERVED)
        if claim is Claim.HELD:
            return 0
        mine = claim is Claim.NEW
        if mine:
            if self._pushed.get(schedule.id) != moment:
                try:
                    await self._push(schedule, _job_id(schedule.id, moment))
                except BaseException:
                    await self._keys.release(key, self._owner)
                    raise
                self._pushed[schedule.id] = moment
            await self._keys.complete(key, self._owner, REMEMBERED)
        new = replace(schedule, last_run=now, next_run=later)
        await self._tables.put(TABLE, schedule.id, msgspec.json.encode(new), raw)  # else somebody has changed it
        return int(mine)

    def _read(self, ident: str, raw: bytes) -> Recurring | None:
        try:
            return _decoder.decode(raw)
        except (ValueError, RecursionError) as error:
            if self._unreadable.get(ident) != raw:  # once, not at each look
                self._unreadable[ident] = raw
                logger.error("the schedule %s cannot be read, and never fires: %s", ident, error)  # noqa: TRY400 the trace says nothing
            return None


def _same(one: Recurring, other: Recurring) -> bool:
    return (one.cron, one.timezone) == (other.cron, other.timezone)


def _job_id(ident: str, moment: float) -> str:
    return hashlib.sha256(f"{ident}\0{moment!r}".encode()).hexdigest()[:24]
