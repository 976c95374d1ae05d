"""What becomes of a delivery: a closed set of four values.

A handler returns one of them (``None`` means ``Ack()``), or raises and lets the retry policy choose one. The broker
applies it atomically in ``settle``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType


class Ack(msgspec.Struct, frozen=True):
    """Done: forget the message."""


class Retry(msgspec.Struct, frozen=True):
    """Failed: hand the message over again, one attempt older.

    ``delay``: seconds to wait; ``None`` leaves it to the retry policy's backoff.
    ``error``: what went wrong, for the records.
    ``counts``: whether this execution uses up one of the policy's ``max_attempts``. With ``False`` the attempt number
    stays and there is no limit: for waiting on something that is no failure.
    """

    delay: float | None = None
    error: BaseException | None = None
    counts: bool = True


class DeadLetter(msgspec.Struct, frozen=True):
    """Given up: keep the message, whole, in the dead-letter queue.

    ``reason``: a short stable text such as ``maxAttempts(5)``. ``meta``: any JSON value, for the people who look at it.
    """

    reason: str = ""
    error: BaseException | None = None
    meta: Any | UnsetType = UNSET


class Release(msgspec.Struct, frozen=True):
    """Not done and not failed: hand it back as if it had never been fetched, available after ``delay`` seconds."""

    delay: float = 0.0


Outcome: TypeAlias = Ack | Retry | DeadLetter | Release

ACK = Ack()

# For a broker an ack like any other; the engine tells it by its identity from that of work that was done.
DISCARDED = Ack()

# Acknowledged already, in a transaction of the handler's own: there is nothing left to settle.
COMMITTED = Ack()
