"""A job that has failed for good, as ``App.get_failed`` shows it."""

from __future__ import annotations

from typing import Any

import msgspec

from ..broker import DeadMessage
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


def failed_job(letter: DeadMessage, queue: str) -> FailedJob:
    """What a dead letter says."""
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
