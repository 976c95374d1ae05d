"""What travels: a Message on the wire, a Delivery from the broker, an Envelope in the handler's hands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from .context import Context

R = TypeVar("R")
T = TypeVar("T")

EMPTY: Mapping[str, Any] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Bytes with a type and headers: all that a broker ever sees.

    ``id``: the broker's id of the message, empty before it is published; some brokers give a retried message a new one.
    ``type``: a stable name such as ``email.send``; never a Python path.
    ``key``: the caller's idempotency key, if any.
    ``attempt``: how many executions failed before; 0 on the first.
    ``enqueued_at``: seconds since the epoch when it was last put in the queue; ``None`` if the writer did not say.
    ``headers``: whatever else the writer sent along (JSON values), such as ``traceparent``.
    """

    id: str = ""
    type: str
    body: bytes
    key: str | None = None
    attempt: int = 0
    enqueued_at: float | None = None
    headers: Mapping[str, Any] = EMPTY


class Predecessor(msgspec.Struct, frozen=True):
    """Who had a message before it was taken over: its identity, and seconds since its last sign of life."""

    owner: str
    silent: float


class Delivery(msgspec.Struct, Generic[R], frozen=True, kw_only=True, eq=False):
    """One handing-over of a message to one owner, under a lease.

    ``receipt``: the driver's own proof of ownership; opaque to everybody else.
    ``count``: how often the message was handed over since it was published or last retried, this time included;
    a released handing-over is not counted. More than 1 means: an earlier owner died or lost its lease.
    ``defect``: why the driver could not read the entry; the engine dead-letters such a delivery without running it,
    and the driver keeps the raw entry in the dead letter.
    ``predecessor``: whose lease lapsed, when this one took it over, if the driver knows.
    Compared and hashed by identity.
    """

    message: Message
    source: str
    group: str
    receipt: R
    count: int = 1
    defect: str | None = None
    predecessor: Predecessor | None = None

    def __hash__(self) -> int:
        return id(self)

    @property
    def attempt(self) -> int:
        """Executions before this one, those that ended in a crash included."""
        return self.message.attempt + self.count - 1


class Envelope(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A decoded message on its way through the consumer's middleware to the handler."""

    payload: T
    message: Message
    context: Context
