"""What every event carries beside its body, as it is published and as a handler sees it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import UNSET

from ..context import Context
from ..errors import UnsupportedFeature
from ..message import EMPTY, Message
from ..outcome import ACK, DeadLetter, Outcome, Retry

VERSION = "1.0.0"
PATTERN = "pattern"  # route prefix and plain type, where that is not the whole type
NAMED = ("id", "origin", "timestamp", "hash", "version")
RESERVED = frozenset({*NAMED, PATTERN, "type", "attempt", "key", "enqueuedAt", "retryGroup"})


class EventHeader(msgspec.Struct, kw_only=True, eq=False):
    """The header of an event in a handler's hands.

    ``id``: a UUID, the same however often it is delivered. ``type``: namespace and event type, ``user-service.user.created``.
    ``origin``: the service that published it. ``timestamp``: when, as ISO 8601 in UTC. ``hash``: SHA-256 of the body as
    JavaScript writes it, in hex. ``extra``: whatever else the publisher sent along. ``context``: this execution.
    """

    id: str
    type: str
    origin: str
    timestamp: str
    hash: str
    version: str
    extra: Mapping[str, Any]
    context: Context
    outcome: Outcome | None = None

    @property
    def attempt(self) -> int:
        """Executions before this one."""
        return self.context.attempt

    def ack(self) -> None:
        """Done, whatever the handler does from now on. With ``auto_ack=False`` this has to be said."""
        self._decide(ACK)

    def retry(self, delay: float | None = None) -> None:
        """To be handled again, after ``delay`` seconds or those of the backoff, if there are attempts left."""
        self._decide(Retry(delay))

    def dead_letter(self, reason: str, meta: Any = UNSET) -> None:
        """Given up."""
        self._decide(DeadLetter(reason, meta=meta))

    def _decide(self, outcome: Outcome) -> None:
        if self.outcome is not None and self.outcome != outcome:
            raise UnsupportedFeature(f"the event {self.id} has been decided on already: {self.outcome!r}")
        self.outcome = outcome


def header_of(context: Context) -> EventHeader:
    """The header that a delivery came with; empty texts where a message that is no event has nothing."""
    given = context.headers
    extra = EMPTY
    if len(given) != 5 + (PATTERN in given) or "id" not in given:
        extra = {name: value for name, value in given.items() if name not in RESERVED}
    return EventHeader(
        id=given.get("id", ""),
        type=context.type,
        origin=given.get("origin", ""),
        timestamp=given.get("timestamp", ""),
        hash=given.get("hash", ""),
        version=given.get("version", ""),
        extra=extra,
        context=context,
    )


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher says of an event: where it comes from, and when."""

    origin: str
    namespace: str
    at: float


def event(
    stamp: Stamp, type_: str, body: bytes, *, prefix: str = "", key: str | None = None, extra: Mapping[str, Any] = EMPTY
) -> Message:
    """The message of an event, as every broker carries it."""
    whole = f"{stamp.namespace}.{type_}"
    headers: dict[str, Any] = {
        "id": new_id(),
        "origin": stamp.origin,
        "timestamp": iso(stamp.at),
        "hash": sha256(body).hexdigest(),
        "version": VERSION,
        PATTERN: prefix + type_,
    }
    if extra:
        headers.update(extra)
    return Message(type=whole, body=body, key=key, headers=headers)


def new_id() -> str:
    """A UUID of version 4."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def iso(seconds: float) -> str:
    """A moment as JavaScript writes it."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def names_of(message: Message) -> tuple[str, ...]:
    """The names by which an event may be meant, the fullest first: whole, and without what its publisher put in front.

    What that is, the origin says, if no namespace was chosen, or the pattern, which is a route's prefix and the type.
    """
    whole, headers = message.type, message.headers
    found = [whole]
    origin, pattern = headers.get("origin"), headers.get(PATTERN)
    if origin and whole.startswith(f"{origin}."):
        found.append(whole[len(origin) + 1 :])
    if isinstance(pattern, str) and pattern != whole:
        rest = whole
        while "." in rest:
            rest = rest.partition(".")[2]
            if rest and pattern.endswith(rest):
                if rest not in found:
                    found.append(rest)
                break
    return tuple(found)


def plain_type(message: Message) -> str:
    """The type as its publisher named it."""
    return names_of(message)[-1]
