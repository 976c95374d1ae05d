"""The wire format of glide-kit as pure functions: text in, values out.

An entry of ``<stream>``: two fields, ``headers`` (JSON object: type, attempt, enqueuedAt in ms, key, then whatever else
the writer sent) and ``payload`` (the body as it is).

A member of ``<stream>:retry``: ``{"stream":…,"fields":{"headers":"…","payload":"…"},"id":"…"}``, scored with the time
it is due in ms. The id makes equal messages distinct; the original ignores it. A body that is not UTF-8 cannot be in
there: it is written as base64 with a third field ``encoding`` = ``base64``, which travels with the entry whoever moves
it and is undone when the entry is read.

An entry of ``<stream>:dlq``: ``headers``, ``payload``, ``error`` (reason and meta), ``handledBy`` (group and consumer);
then ``failure`` if there was an exception, and ``raw`` if the entry could not be read (all its fields, as JSON).

Header ``retryGroup``: on a stream with several groups, the only group that a retried message is meant for.
Header ``retryTurn``: under a keyed subscription, the entry whose turn a retried message has kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import UNSET, UnsetType

from ...broker import DeadMessage
from ...clients.redis import Arg
from ...message import Delivery, Message
from ...outcome import DeadLetter

Fields: TypeAlias = list[bytes]  #: name, value, name, value …

HEADERS, PAYLOAD, ENCODING, RAW = b"headers", b"payload", b"encoding", b"raw"
RESERVED = frozenset({"type", "attempt", "enqueuedAt", "key", "retryGroup", "retryTurn"})
LAST_MOMENT = 253_402_300_799_999  # in ms: the end of the year 9999, the last that a date can tell
MAX_TRACEBACK = 8192
MAX_TEXT = 2048


class _Headers(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The members that the original writes, in its order."""

    type: str
    attempt: int = 0
    enqueuedAt: int | None = None  # noqa: N815 - the name on the wire
    key: str | UnsetType | None = UNSET


_decode_plain = msgspec.json.Decoder(_Headers).decode
_decode_headers = msgspec.json.Decoder(dict[str, Any]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """An entry that is no message; the text says why."""


class Failure(msgspec.Struct, omit_defaults=True):
    """The field ``failure`` of a dead letter."""

    type: str
    message: str
    traceback: str = ""
    id: str = ""
    deliveries: int = 1


def to_json(value: Any) -> bytes:
    """JSON for whatever a user hands in; what JSON lacks becomes its repr, what UTF-8 lacks an escape."""
    try:
        return _encode(value)
    except Exception:  # noqa: BLE001, S110 - an object of the user may raise anything
        pass
    try:
        return json.dumps(value, default=repr, skipkeys=True, allow_nan=False, separators=(",", ":")).encode()
    except Exception:  # noqa: BLE001 - a repr may raise anything, and a dead letter must not fail for it
        return json.dumps(f"<{type(value).__name__} that cannot be written as JSON>").encode()


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def headers_of(message: Message, now: float) -> bytes:
    """The field ``headers`` of a message. Raises what msgspec raises for values that are no JSON."""
    at = now if message.enqueued_at is None else message.enqueued_at
    core = _Headers(message.type, message.attempt, round(at * 1000), UNSET if message.key is None else message.key)
    if not message.headers:
        return _encode(core)
    extra = {name: value for name, value in message.headers.items() if name not in RESERVED}
    return _encode(msgspec.to_builtins(core) | extra)


def aged_headers(raw: bytes, attempt: int, now: float | None, *, turn: str | None = None) -> bytes:
    """The headers again with another attempt (and, with ``now``, another time); the rest as it was, in its order."""
    members = _decode_members(raw)
    members.pop("retryGroup", None)
    members.pop("retryTurn", None)
    if turn is not None:
        members["retryTurn"] = msgspec.Raw(_encode(turn))
    members["attempt"] = msgspec.Raw(b"%d" % attempt)
    if now is not None:
        members["enqueuedAt"] = msgspec.Raw(b"%d" % milliseconds(now))
    return _encode(members)


def parse_headers(raw: bytes) -> dict[str, Any]:
    """The headers as an object with a type and a whole attempt, or ``Unreadable``."""
    try:
        headers = _decode_headers(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Unreadable(f"its headers are not a JSON object: {wrong}") from None
    if type(headers.get("type")) is not str:
        raise Unreadable("its headers name no type")
    attempt = headers.get("attempt", 0)
    if type(attempt) is not int or attempt < 0:
        raise Unreadable(f"its attempt is not a whole number: {attempt!r:.80}")
    return headers


def plain_message(entry_id: str, raw: bytes, body: bytes) -> Message | None:
    """The message, if its headers are those of the original and no others: the fast way."""
    try:
        headers = _decode_plain(raw)
        at, key = headers.enqueuedAt, headers.key
        seconds = None if at is None else at / 1000
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        return None
    if headers.attempt < 0:
        return None
    return Message(
        id=entry_id,
        type=headers.type,
        body=body,
        key=None if key is UNSET else key,
        attempt=headers.attempt,
        enqueued_at=seconds,
    )


def to_message(entry_id: str, headers: dict[str, Any], body: bytes) -> Message:
    """The message of parsed headers, which are used up."""
    type_ = headers.pop("type")
    attempt = headers.pop("attempt", 0)
    at = headers.pop("enqueuedAt", None)
    key = headers.pop("key", None)
    if key is not None and type(key) is not str:
        key = to_json(key).decode()
    return Message(
        id=entry_id,
        type=type_,
        body=body,
        key=key,
        attempt=attempt,
        enqueued_at=at / 1000 if (type(at) is int or type(at) is float) and abs(at) <= LAST_MOMENT else None,
        headers=headers,
    )


def pick(fields: Fields) -> tuple[bytes | None, bytes | None]:
    """Headers and body of an entry, ``None`` where the field is missing. Of equal names the last one counts."""
    if len(fields) == 4 and fields[0] == HEADERS and fields[2] == PAYLOAD:
        return fields[1], fields[3]
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    body = named.get(PAYLOAD)
    if body is not None and named.get(ENCODING) == b"base64":
        with suppress(binascii.Error):  # then it only looked like ours
            body = base64.b64decode(body, validate=True)
    return named.get(HEADERS), body


def read_entry(entry_id: str, fields: Fields) -> tuple[Message, bytes, str | None]:
    """The message of an entry, its raw headers and the only group it is meant for, or ``Unreadable``."""
    raw, body = pick(fields)
    if raw is None:
        raise Unreadable("it has no field headers")
    if body is None:
        raise Unreadable("it has no field payload")
    headers = parse_headers(raw)
    only = headers.pop("retryGroup", None)
    headers.pop("retryTurn", None)
    return to_message(entry_id, headers, body), raw, only


def delayed_member(stream: str, headers: bytes, body: bytes, ident: str, group: str) -> tuple[bytes, bytes, bytes]:
    """A member of the sorted set in three parts; with the middle one it is for ``group`` only."""
    text = _encode(headers.decode())
    mark = _encode(f',"retryGroup":{_encode(group).decode()}')[1:-1]
    try:
        payload, encoding = _encode(body.decode()), b""
    except UnicodeDecodeError:
        payload, encoding = b'"%b"' % base64.b64encode(body), b',"encoding":"base64"'
    head = b'{"stream":%b,"fields":{"headers":%b' % (_encode(stream), text[:-2])
    tail = b'}","payload":%b%b},"id":"%b"}' % (payload, encoding, ident.encode())
    return head, mark, tail


def error_field(outcome: DeadLetter) -> bytes:
    """The field ``error`` of a dead letter."""
    parts: list[bytes] = []
    if outcome.reason:
        parts.append(b'"reason":%b' % to_json(outcome.reason))
    if outcome.meta is not UNSET:
        parts.append(b'"meta":%b' % to_json(outcome.meta))
    return b"{%b}" % b",".join(parts)


def handled_by(group: str, consumer: str) -> bytes:
    """The field ``handledBy`` of a dead letter."""
    return to_json({"group": group, "consumer": consumer})


def failure_field(error: BaseException, entry_id: str, deliveries: int) -> bytes:
    """The field ``failure`` of a dead letter."""
    trace = "".join(traceback.format_exception(error))
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is must not stop the dead letter
        text = "<no text>"
    return to_json(
        {
            "type": type(error).__name__,
            "message": text[:MAX_TEXT],
            "traceback": trace[-MAX_TRACEBACK:],
            "id": entry_id,
            "deliveries": deliveries,
        }
    )


def circumstances(delivery: Delivery[Any], outcome: DeadLetter, owner: str) -> list[Arg]:
    """The fields of a dead letter that say why, by whom, and what could not be read: its receipt has it."""
    fields: list[Arg] = ["error", error_field(outcome), "handledBy", handled_by(delivery.group, owner)]
    if outcome.error is not None:
        fields += ["failure", failure_field(outcome.error, delivery.message.id, delivery.count)]
    if delivery.defect is not None:
        fields += ["raw", raw_field(delivery.receipt.fields or [])]
    return fields


def letter(ident: str, fields: Fields, message: Message, raw: bytes | None) -> DeadMessage:
    """A dead letter whose circumstances are written as above."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    error, handled = parse_object(named.get(b"error")), parse_object(named.get(b"handledBy"))
    failure = parse_failure(named.get(b"failure"))
    return DeadMessage(
        id=ident,
        message=message,
        reason=str(error.get("reason", "")),
        error=None if failure is None else f"{failure.type}: {failure.message}",
        meta=error.get("meta"),
        group=str(handled.get("group", "")),
        owner=str(handled.get("consumer", "")),
        died_at=int(ident.partition("-")[0]) / 1000,
        raw=raw,
    )


def raw_field(fields: Fields) -> bytes:
    """All fields of an unreadable entry as JSON: name and value pairs, bytes that are no text as ``{"base64": …}``."""
    return to_json([[_text(fields[i]), _text(fields[i + 1])] for i in range(0, len(fields) - 1, 2)])


def _text(value: bytes) -> str | Mapping[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def parse_json(raw: bytes | None) -> Any:
    """The JSON value, or ``None`` for what is none."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_object(raw: bytes | None) -> dict[str, Any]:
    """The JSON object, or an empty one."""
    value: Any = parse_json(raw)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def parse_failure(raw: bytes | None) -> Failure | None:
    """The field ``failure``, if there is one that can be read."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def texts(values: Sequence[bytes]) -> list[str]:
    """Names from the server; bytes that are no UTF-8 survive the way back."""
    return [value.decode("utf-8", "surrogateescape") for value in values]
