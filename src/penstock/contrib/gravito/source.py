"""What the mover asks of a place where the original keeps jobs: pages of what is there, claims, removals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it lies there. ``place``: for people; ``at``: the source's own name of it.

    ``queue``, ``priority``: what the place says of it. ``due``: seconds since the epoch, ``None`` if the place says
    nothing. ``failed``: it lies among those that have failed for good. ``token``: what it was claimed as before.
    """

    raw: bytes
    place: str
    at: str
    queue: str | None = None
    priority: object = None
    due: float | None = None
    failed: bool = False
    token: str | None = None


@dataclass(slots=True)
class Page:
    """Some jobs, in the order in which they are to be moved. ``left``: how many of them stay where they are."""

    entries: list[Entry]
    left: int = 0


class Timetable(msgspec.Struct, frozen=True, kw_only=True):
    """A recurring job of the original, as it wrote it."""

    id: str
    cron: str
    queue: str
    job: bytes
    enabled: bool
    at: str


@dataclass(slots=True)
class Beside:
    """What lies beside the jobs: recurring ones, and queues that are paused."""

    timetables: list[Timetable] = field(default_factory=list[Timetable])
    paused: list[str] = field(default_factory=list[str])


class Source(Protocol):
    """Redis, or a SQL database."""

    def pages(self) -> AsyncIterator[Page]:
        """Everything there is. ``left`` of a page is to be set before the next one is asked for."""
        ...

    async def claim(self, entries: Sequence[Entry]) -> Sequence[str | None]:
        """Take entries of one page out of the original's reach, in one step, without losing them.

        For each a name that no other job ever has, the same after a crash; ``None`` if somebody else was first.
        """
        ...

    async def remove(self, entries: Sequence[Entry], tokens: Sequence[str]) -> None:
        """Delete what was claimed, once it is published."""
        ...

    async def beside(self) -> Beside:
        """What else there is."""
        ...

    async def forget(self, timetable: Timetable) -> None:
        """Delete a recurring job that has been moved."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
