"""What waits in a queue, and the jobs that have failed for good, over all of its priorities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..broker import DeadMessage
from ..checks import at_least_one
from ..inspector import Inspector
from ..job_terms import lanes
from .handling import job_id


class FailedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter. ``id``: the job's; ``letter``: the dead letter's own; ``queue``: the lane that it died in.

    ``data``: the job's fields, ``None`` if they cannot be read: then ``body`` is what was there. ``failed_at``: seconds
    since the epoch.
    """

    id: str
    letter: str
    queue: str
    name: str
    data: Any
    body: bytes
    attempts: int
    reason: str
    error: str | None
    failed_at: float | None


async def waiting(inspector: Inspector, queue: str) -> int:
    """Jobs that could run now."""
    stats = await inspector.stats(*lanes(queue))
    return sum(max(each.size - max((group.leased for group in each.groups), default=0), 0) for each in stats)


async def failed(inspector: Inspector, queue: str) -> list[FailedJob]:
    """The dead letters of a queue, the oldest first."""
    found = [_failed(letter, name) for name in lanes(queue) async for letter in inspector.each_dead(name)]
    return sorted(found, key=_failed_at)


async def put_back(inspector: Inspector, queue: str, count: int) -> int:
    """Make fresh jobs of the ``count`` oldest; how many were still there."""
    at_least_one("count, the dead letters to put back,", count)
    letters = (await failed(inspector, queue))[:count]
    return sum([await inspector.requeue(name, _ids(letters, name)) for name in lanes(queue)])


async def clear(inspector: Inspector, queue: str) -> int:
    """Delete all of them; how many there were."""
    letters = await failed(inspector, queue)
    return sum([await inspector.purge_dead(name, _ids(letters, name)) for name in lanes(queue)])


def _ids(letters: Sequence[FailedJob], name: str) -> list[str]:
    return [letter.letter for letter in letters if letter.queue == name]


def _failed_at(job: FailedJob) -> float:
    return job.failed_at or 0.0


def _failed(letter: DeadMessage, queue: str) -> FailedJob:
    message = letter.message
    try:
        data = msgspec.json.decode(message.body)
    except (ValueError, RecursionError):
        data = None
    return FailedJob(
        id=job_id(message),
        letter=letter.id,
        queue=queue,
        name=message.type,
        data=data,
        body=letter.raw if letter.raw is not None else message.body,
        attempts=message.attempt + 1,
        reason=letter.reason,
        error=letter.error,
        failed_at=letter.died_at,
    )
