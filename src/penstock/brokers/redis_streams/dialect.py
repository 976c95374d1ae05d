"""What is written in the entries of a stream, and how it is read: a value that the driver is given.

The driver moves entries, delayed members and dead letters; a dialect says what they look like. ``GlideKit`` is the
default. ``events.EventsDialect`` is that of ``@logistically/events``.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...broker import Capabilities, DeadMessage
from ...clients.redis import Arg
from ...message import Delivery, Message
from ...outcome import DeadLetter
from . import wire
from .options import Keys, Receipt
from .wire import RAW, Fields, Unreadable, headers_of

NOTHING = b""


class Later(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way into the sorted set.

    ``attempt`` and ``enqueued_at`` are those to be written; ``enqueued_at`` is ``None`` if it stays as it was.
    ``group``: whom it is for, if it is for one group only; ``turn``: the entry whose turn it keeps.
    ``ident`` makes equal members distinct. ``receipt``: that of the delivery it was, if it was one.
    """

    stream: str
    message: Message
    attempt: int
    enqueued_at: float | None
    ident: str
    group: str = ""
    turn: str | None = None
    receipt: Receipt | None = None


class Dialect(Protocol):
    """One wire format. Pure: no I/O. ``splits``: whether an entry may hold several messages (``Part``)."""

    splits: bool

    def capabilities(self, whole: Capabilities) -> Capabilities:
        """What of the driver's capabilities holds in this dialect."""
        ...

    def keys(self, *, tagged: bool) -> Keys:
        """The names of the keys beside a stream."""
        ...

    def entry(self, message: Message, now: float) -> tuple[Arg, ...]:
        """The fields of a fresh message. Raises what msgspec raises for what is no JSON, or ``EncodeError``."""
        ...

    def later(self, item: Later) -> tuple[bytes, bytes, bytes]:
        """A member of the sorted set in three parts; with the middle one it is for one group only."""
        ...

    def dead(self, delivery: Delivery[Receipt], outcome: DeadLetter, owner: str) -> list[Arg]:
        """The fields of a dead letter."""
        ...

    def requeued(self, fields: Fields, now: float) -> tuple[Arg, ...]:
        """The fields of a fresh message made of those of a dead letter, or ``Unreadable``."""
        ...

    def peeked(self, ident: str, fields: Fields) -> Message:
        """The message of an entry for people; what cannot be read has no type."""
        ...

    def letter(self, ident: str, fields: Fields) -> DeadMessage:
        """A dead letter for people."""
        ...


class GlideKit:
    """``headers`` and ``payload``: see ``wire``."""

    splits = False

    def capabilities(self, whole: Capabilities) -> Capabilities:
        return whole

    def keys(self, *, tagged: bool) -> Keys:
        return Keys(tagged=tagged)

    def entry(self, message: Message, now: float) -> tuple[Arg, ...]:
        return ("headers", headers_of(message, now), "payload", message.body)

    def later(self, item: Later) -> tuple[bytes, bytes, bytes]:
        if item.receipt is None:
            headers = wire.headers_of(item.message, item.enqueued_at or 0.0)
        else:
            headers = wire.aged_headers(item.receipt.headers, item.attempt, item.enqueued_at, turn=item.turn)
        return wire.delayed_member(item.stream, headers, item.message.body, item.ident, item.group)

    def dead(self, delivery: Delivery[Receipt], outcome: DeadLetter, owner: str) -> list[Arg]:
        message, receipt = delivery.message, delivery.receipt
        headers: bytes | None = receipt.headers
        body: bytes | None = message.body
        if delivery.defect is not None:
            headers, body = wire.pick(receipt.fields or [])
        elif delivery.count > 1 or b'"retry' in receipt.headers:
            headers = wire.aged_headers(receipt.headers, delivery.attempt, None)
        fields: list[Arg] = []
        if headers is not None:
            fields += ["headers", headers]
        if body is not None:
            fields += ["payload", body]
        return fields + wire.circumstances(delivery, outcome, owner)

    def requeued(self, fields: Fields, now: float) -> tuple[Arg, ...]:
        message, headers, _ = wire.read_entry("", fields)
        return ("headers", wire.aged_headers(headers, 0, now), "payload", message.body)

    def peeked(self, ident: str, fields: Fields) -> Message:
        try:
            return wire.read_entry(ident, fields)[0]
        except Unreadable:
            return Message(id=ident, type="", body=wire.pick(fields)[1] or NOTHING)

    def letter(self, ident: str, fields: Fields) -> DeadMessage:
        raw = dict(zip(fields[::2], fields[1::2], strict=False)).get(RAW) or _unreadable(fields)
        return wire.letter(ident, fields, self.peeked(ident, fields), raw)


def _unreadable(fields: Fields) -> bytes | None:
    """The entry as text, if nothing else can be made of it."""
    try:
        wire.read_entry("", fields)
    except Unreadable:
        return repr(fields).encode()
    return None


GLIDE_KIT = GlideKit()
