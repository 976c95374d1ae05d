"""What becomes a row: messages that the broker has, and outcomes that end a job.

A retry or a release is no end and has no row. ``completed`` is said of work that was done, and of nothing else: what was
dropped by rule is ``discarded``, what came too late ``expired``, whatever else is dead ``failed``. An outcome of which
nobody knows whether this worker or the next one has applied it is ``unconfirmed``, with its name as the reason.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ...broker import Outgoing, Settlement
from ...message import Message
from ...outcome import DISCARDED, Ack, DeadLetter, Outcome
from .options import ArchiveOptions
from .rows import BODY_KEPT, ERROR_SHOWN, SIZE_HEADER, Entry


class Events:
    """Makes entries as the options say."""

    def __init__(self, options: ArchiveOptions) -> None:
        self._enqueued = options.archive_enqueued
        self._completed, self._failed = options.archive_completed, options.archive_failed
        self._numbers, self._mark = itertools.count(), os.urandom(8).hex()

    def renew(self) -> None:
        """In a fork: its events are not the parent's."""
        self._numbers, self._mark = itertools.count(), os.urandom(8).hex()

    def enqueued(self, outgoings: Sequence[Outgoing], ids: Sequence[str], now: float) -> list[Entry]:
        """An entry for each message."""
        if not self._enqueued:
            return []
        return [
            Entry(
                event=self._event(),
                status="waiting",
                queue=each.destination,
                message=_kept(each.message),
                ident=ident,
                # Before anybody could have it: no end is earlier
                at=now if each.message.enqueued_at is None else min(now, each.message.enqueued_at),
                attempts=each.message.attempt,
                delay=each.delay,
                once=each.once is not None,
            )
            for each, ident in zip(outgoings, ids, strict=True)
        ]

    def settled(self, settlements: Sequence[Settlement[Any]], now: float, *, confirmed: bool) -> list[Entry]:
        """An entry for each outcome that ends a job."""
        found: list[Entry] = []
        for item in settlements:
            status = self._status(item.outcome)
            if status is not None:
                found.append(self._ended(item, status, now, confirmed=confirmed))
        return found

    def _ended(self, item: Settlement[Any], status: str, now: float, *, confirmed: bool) -> Entry:
        delivery, outcome = item.delivery, item.outcome
        reason = error = None
        if isinstance(outcome, DeadLetter):
            reason = outcome.reason or "dead"
            error = None if outcome.error is None else _text(outcome.error)
        return Entry(
            event=self._event(),
            status=status if confirmed else "unconfirmed",
            queue=delivery.source,
            message=_kept(delivery.message),
            ident=delivery.message.id,
            at=now,
            attempts=delivery.attempt + 1,
            group=delivery.group,
            reason=reason if confirmed else status,
            error=error,
        )

    def _status(self, outcome: Outcome) -> str | None:
        if outcome is DISCARDED:
            return "discarded" if self._failed else None
        if isinstance(outcome, DeadLetter) and self._failed:
            return "expired" if outcome.reason == "expired" else "failed"
        return "completed" if self._completed and isinstance(outcome, Ack) else None

    def _event(self) -> str:
        return f"{self._mark}-{next(self._numbers)}"


def _kept(message: Message) -> Message:
    """The message as it is held until it is written: a very large body is not."""
    if len(message.body) <= BODY_KEPT:
        return message
    return replace(message, body=b"", headers={**message.headers, SIZE_HEADER: len(message.body)})


def _text(error: BaseException) -> str:
    """Now, not when it is written: an exception holds on to everything that its frames knew."""
    return f"{type(error).__name__}: {error}"[:ERROR_SHOWN]
