"""The dialect of ``@logistically/events``: see ``event_wire`` for what is read and written.

Dead letters are in ``<stream>-dlq``, as that library's documentation names it, or wherever one says: the event as it
was, so that any consumer may take it from there, then why it is dead, as in the driver's other dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...broker import Capabilities, DeadMessage
from ...clients.redis import Arg
from ...clients.redis_cluster import slot_of
from ...errors import ConfigurationError
from ...message import Delivery, Message
from ...outcome import DeadLetter
from . import wire
from .dialect import Later
from .event_wire import DATA, Split, data_of, read, written
from .options import Keys, Receipt
from .wire import RAW, Fields, Unreadable

_encode = msgspec.json.Encoder().encode


class EventKeys(Keys):
    """The names beside a stream of events."""

    __slots__ = ("_named",)

    def __init__(self, *, tagged: bool, named: Mapping[str, str]) -> None:
        super().__init__(tagged=tagged)
        self._named = named

    def dead(self, stream: str) -> str:
        named = self._named.get(stream)
        if named is None:
            return f"{self._beside(stream)}-dlq"
        if self._tagged and slot_of(named) != slot_of(stream):
            raise ConfigurationError(
                f"in a cluster the dead letters of {stream!r} cannot be kept in {named!r}, which is on another node:"
                f" name it {{{stream}}}-dlq, or leave dead_letter_stream out"
            )
        return named

    def is_dead(self, name: str) -> bool:
        return name.endswith("-dlq") or name in self._named.values()


class EventsDialect:
    """``dead_letters``: where those of a stream are, by stream."""

    splits = True

    def __init__(self, dead_letters: Mapping[str, str] | None = None) -> None:
        self._dead_letters = dict(dead_letters or {})

    def capabilities(self, whole: Capabilities) -> Capabilities:
        """An event is JSON; its key lies inside of it, where no script looks."""
        return msgspec.structs.replace(whole, binary=False, keyed=False)

    def keys(self, *, tagged: bool) -> Keys:
        return EventKeys(tagged=tagged, named=self._dead_letters)

    def entry(self, message: Message, now: float) -> tuple[Arg, ...]:
        return ("data", b"".join(written(message, attempt=message.attempt, at=message.enqueued_at)))

    def later(self, item: Later) -> tuple[bytes, bytes, bytes]:
        message, receipt = item.message, item.receipt
        if receipt is not None and receipt.fields is not None:  # a part that cannot be read stays what it is
            head, mark, tail = b"", b"", data_of(receipt.fields)
        else:
            at = message.enqueued_at if receipt is None or item.enqueued_at is None else item.enqueued_at
            head, mark, tail = written(message, attempt=item.attempt, at=at, group=item.group or None)
        start = b'{"stream":%b,"fields":{"data":"%b' % (_encode(item.stream), _quoted(head))
        return start, _quoted(mark), b'%b"},"id":"%b"}' % (_quoted(tail), item.ident.encode())

    def dead(self, delivery: Delivery[Receipt], outcome: DeadLetter, owner: str) -> list[Arg]:
        fields: list[Arg] = []
        if delivery.defect is None:
            message = delivery.message
            fields += ["data", b"".join(written(message, attempt=delivery.attempt))]
        else:
            raw = delivery.receipt.fields or []
            named = dict(zip(raw[::2], raw[1::2], strict=False))
            if DATA in named:
                fields += ["data", named[DATA]]
        return fields + wire.circumstances(delivery, outcome, owner)

    def requeued(self, fields: Fields, now: float) -> tuple[Arg, ...]:
        data = data_of(fields)
        item = read("", data)
        if isinstance(item, Split):
            return ("data", data)
        return ("data", b"".join(written(msgspec.structs.replace(item[0], enqueued_at=None), attempt=0)))

    def peeked(self, ident: str, fields: Fields) -> Message:
        data = b""
        try:
            data = data_of(fields)
            item = read(ident, data)
        except Unreadable:
            return Message(id=ident, type="", body=data)
        return Message(id=ident, type=item.type, body=data) if isinstance(item, Split) else item[0]

    def letter(self, ident: str, fields: Fields) -> DeadMessage:
        """A dead letter of ours, of release 2 (which says nothing but the entry) or of release 3."""
        named = dict(zip(fields[::2], fields[1::2], strict=False))
        message = self.peeked(ident, fields)
        raw: bytes | None = named.get(RAW)
        if raw is None and not message.type:
            raw = repr(fields).encode()
        found = wire.letter(ident, fields, message, raw)
        if b"originalStream" in named:
            error: Any = named.get(b"error", b"").decode("utf-8", "backslashreplace")
            return msgspec.structs.replace(found, error=error or None, reason="")
        return found


def _quoted(text: bytes) -> bytes:
    """A part of a JSON text as part of a JSON string."""
    return _encode(text.decode())[1:-1]
