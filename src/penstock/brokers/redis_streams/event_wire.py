"""The wire format of ``@logistically/events`` as pure functions: text in, values out.

An event is an envelope ``{"header":{id,type,origin,timestamp,hash,version},"body":…}``. Release 2 writes it as
``{"pattern":…,"data":ENVELOPE}`` into the field ``data``, release 3 as it is. Several of them are in one entry as
``{"pattern":…,"data":{"header":{…,"batchId":…},"body":{"messages":[{…,"envelope":ENVELOPE}]}}}`` (2) or
``{"data":[ENVELOPE],"metadata":{"batch":true}}`` (3). A dead letter of release 2 has all fields of the entry as a JSON
array in ``data``, one of release 3 the fields of the entry behind its own.

All of it is read. What is written is the single event of release 2; what else a message has (attempt, key, the group a
retry is meant for, headers of the user) are further members of the header, which the originals pass over.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from ...errors import EncodeError
from ...message import Message
from .wire import LAST_MOMENT, Fields, Unreadable, milliseconds

DATA = b"data"
VERSION = "1.0.0"
NAMED = ("id", "origin", "timestamp", "hash", "version")  # what every header has, besides the type
OURS = ("attempt", "key", "enqueuedAt", "retryGroup")
PATTERN = "pattern"
RESERVED = frozenset({"type", PATTERN, *NAMED, *OURS})


class _Envelope(msgspec.Struct, gc=False):
    header: dict[str, Any]
    body: msgspec.Raw


class _Wrapped(msgspec.Struct, gc=False):
    pattern: str
    data: _Envelope


class _Batched(msgspec.Struct, rename="camel", gc=False):
    envelope: msgspec.Raw
    event_type: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def text(self) -> bytes:
        """The event as if it had come alone, with the type that its publisher named: the envelope's has a namespace."""
        return b'{"pattern":%b,"data":%b}' % (bytes(self.event_type), bytes(self.envelope))


class _Batch(msgspec.Struct, gc=False):
    messages: list[_Batched]


class _Loose(msgspec.Struct, gc=False):
    """An object of which nothing is certain."""

    pattern: Any = None
    data: msgspec.Raw | UnsetType = UNSET
    header: msgspec.Raw | UnsetType = UNSET
    body: msgspec.Raw | UnsetType = UNSET


class Split(msgspec.Struct, frozen=True):
    """The envelopes of an entry that has several, each as its text."""

    type: str
    texts: Sequence[bytes]


_wrapped = msgspec.json.Decoder(_Wrapped).decode
_envelope = msgspec.json.Decoder(_Envelope).decode
_loose = msgspec.json.Decoder(_Loose).decode
_batch = msgspec.json.Decoder(_Batch).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[str]).decode
_any_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def data_of(fields: Fields) -> bytes:
    """The text of an entry: the field ``data``, or what it was in an entry that is dead. ``Unreadable`` without one."""
    data = _field(fields)
    if data[:1] != b"[":
        return data
    try:
        flat = _array(data)
    except WRONG as wrong:
        raise Unreadable(f"its data is a list, but not of texts: {wrong}") from None
    return _field([each.encode() for each in flat])


def _field(fields: Fields) -> bytes:
    if len(fields) > 1 and fields[0] == DATA:  # it need not be, but for release 2 it is the first
        return fields[1]
    for place in range(0, len(fields) - 1, 2):
        if fields[place] == DATA:
            return fields[place + 1]
    raise Unreadable("it has no field data")


def read(ident: str, data: bytes) -> tuple[Message, str | None] | Split:
    """The message of a text and the only group it is meant for; or the texts that it holds; or ``Unreadable``."""
    try:
        wrapped = _wrapped(data)
    except WRONG:
        return _read_slowly(ident, data)
    return _message(ident, wrapped.pattern, wrapped.data) or _read_slowly(ident, data)


def _message(ident: str, pattern: str | None, envelope: _Envelope) -> tuple[Message, str | None] | None:
    """The message of an envelope whose header has what every header has."""
    header = envelope.header
    try:
        type_ = header.pop("type")
        named = header["id"], header["origin"], header["timestamp"], header["hash"], header["version"]
    except KeyError:
        return None
    for each in named:
        if type(each) is not str:
            return None
    if type(type_) is not str:
        return None
    attempt, key, at, only = 0, None, None, None
    if len(header) > len(NAMED):
        attempt, key = header.pop("attempt", 0), header.pop("key", None)
        at, only = header.pop("enqueuedAt", None), header.pop("retryGroup", None)
    if type(attempt) is not int or attempt < 0:
        raise Unreadable(f"its attempt is not a whole number: {attempt!r:.80}")
    if not named[1]:  # nobody's: written for a message that came without a header of its own
        for name in NAMED:
            del header[name]
    if pattern is not None and pattern != type_:
        header[PATTERN] = pattern
    message = Message(
        id=ident,
        type=type_,
        body=bytes(envelope.body),
        key=key if type(key) is str else None,
        attempt=attempt,
        enqueued_at=at / 1000 if type(at) is int and 0 <= at <= LAST_MOMENT else moment(ident),
        headers=header,
    )
    return message, only if type(only) is str else None


def moment(ident: str) -> float | None:
    """When an entry was written, by its id."""
    at = ident.partition("-")[0]
    return int(at) / 1000 if at.isdecimal() else None


def _read_slowly(ident: str, data: bytes) -> tuple[Message, str | None] | Split:
    """A text that is no single event of release 2."""
    try:
        found = _read_other(ident, data)
    except WRONG as wrong:
        halves = _read_halves(ident, data)
        if halves is None:
            raise Unreadable(f"its data is no event: {wrong}") from None
        return halves
    if found is None:
        raise Unreadable("its header has no id, type, origin, timestamp, hash and version, all of them texts")
    return found


def _read_other(ident: str, data: bytes) -> tuple[Message, str | None] | Split | None:
    outer = _loose(data)
    text, pattern = data, None
    if outer.data is not UNSET and outer.header is UNSET:
        text = bytes(outer.data)
        pattern = outer.pattern if type(outer.pattern) is str else None
        if text[:1] == b"[":
            return Split("batch", [bytes(each) for each in _raws(text)])
    return _split(text) or _message(ident, pattern, _envelope(text))


def _split(text: bytes) -> Split | None:
    """The envelopes of a batch of release 2, whatever type it says it has."""
    envelope = _loose(text)
    if envelope.header is UNSET or envelope.body is UNSET:
        raise Unreadable("it has no header and body")
    header: Any = msgspec.json.decode(envelope.header)
    if type(header) is not dict:
        raise Unreadable("its header is no object")
    known = cast("dict[str, Any]", header)
    if "id" in known and "batchId" not in known:
        return None
    body = bytes(envelope.body)
    if "batchId" not in known and "messageCount" not in known and b'"messages"' not in body:
        return None
    return Split(str(known.get("type", "batch")), [each.text for each in _batch(body).messages])


def _read_halves(ident: str, data: bytes) -> tuple[Message, str | None] | Split | None:
    r"""A text with ``\ud800`` and the like, half a character: JavaScript writes it, but our parser refuses it.

    It is read with something else in those places, which is put right again in the body. ``None`` if it has none.
    """
    token = b"half-"
    while token in data:
        token += b"-"
    mended = _ESCAPES.sub(lambda escape: token + escape[1] if escape[1] else escape[0], data)
    if mended == data:
        return None
    item = read(ident, mended)
    if isinstance(item, Split):
        return Split(item.type, [text.replace(token, b"\\") for text in item.texts])
    message, only = item
    return msgspec.structs.replace(message, body=message.body.replace(token, b"\\")), only


def _checked(body: bytes) -> bytes:
    """The body, if it is JSON."""
    try:
        _any_json(body)
    except WRONG as wrong:
        try:
            json.loads(body)  # knows half a character
        except (ValueError, RecursionError):
            raise EncodeError(f"the body of an event is JSON, got {body[:60]!r}: {wrong}") from wrong
    return body


def written(message: Message, *, attempt: int, at: float | None = None, group: str | None = None) -> list[bytes]:
    """A message as a single event of release 2, in three parts; with the middle one it is for ``group`` only."""
    headers, type_ = message.headers, message.type
    body = _checked(message.body)
    kinds: set[type[object]] = {type(headers.get(name)) for name in NAMED}
    if kinds == {str}:
        header: dict[str, Any] = {"id": "", "type": type_, **headers}
        header.pop(PATTERN, None)
    elif kinds == {type(None)}:
        header = _nobodys(message)
    else:
        raise EncodeError(
            f"an event's header has {', '.join(NAMED)}, all of them texts; of these the message of type {type_!a} has"
            f" {sorted({*NAMED} & headers.keys())}: publish it with an EventPublisher, or choose other names for headers"
        )
    if attempt:
        header["attempt"] = attempt
    if message.key is not None:
        header["key"] = message.key
    if at is not None:
        header["enqueuedAt"] = milliseconds(at)
    head = b'{"pattern":%b,"data":{"header":%b' % (_encode(headers.get(PATTERN, type_)), _encode(header)[:-1])
    mark = b"" if group is None else b',"retryGroup":%b' % _encode(group)
    return [head, mark, b'},"body":%b}}' % body]


def _nobodys(message: Message) -> dict[str, Any]:
    """The header of a message that came without one, so that every reader takes it for an event."""
    return {
        "id": str(uuid.uuid4()),
        "type": message.type,
        "origin": "",
        "timestamp": iso(message.enqueued_at or 0.0),
        "hash": sha256(message.body).hexdigest(),
        "version": VERSION,
        **{name: value for name, value in message.headers.items() if name not in RESERVED},
    }


def iso(seconds: float) -> str:
    """A moment as JavaScript writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
