"""The message format: AMQP properties and headers, readable by any client.

``message_id``, ``type``, the body as it is, ``delivery_mode`` 2, ``timestamp`` (whole seconds). Headers that the caller
sent are headers. Ours begin with ``penstock-`` and are there only if they say something: ``attempt``; ``key``; ``at``
(when enqueued, where that is no whole second); ``count`` (handings-over before this copy was made) and ``copy`` (which
copy it is); ``headers`` (all of the caller's as JSON, where AMQP cannot say them exactly: fractions, very large
numbers); in dead letters ``letter reason error traceback meta group owner died-at defect``.
"""

# Values from outside are of any kind:
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import base64
import secrets
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET
from pamqp import commands as spec

from ...broker import DeadMessage
from ...message import EMPTY, Delivery, Message
from ...outcome import DeadLetter

OURS = "penstock-"
# What the server adds; it is not the caller's, and a copy does not carry it on
_SERVERS = frozenset({"x-delivery-count", "x-acquired-count", "x-death", "CC", "BCC"})
# The server checks user_id against our own user, and an expiration would start again with each copy
_LEFT_OUT = frozenset({"user_id", "cluster_id", "expiration"})
_TRACEBACK, _TEXT, _META = 8 * 1024, 2 * 1024, 16 * 1024
RESERVED = 64 * 1024  # bytes of headers for what a retry and a dead letter have to add
_INT64 = 2**63

Headers = dict[str, Any]


def _servers(name: str) -> bool:
    return name in _SERVERS or name.startswith(("x-first-death-", "x-last-death-", "x-opt-"))


def properties(message: Message, ident: str) -> spec.Basic.Properties:
    """Properties of a message to publish. Raises what the encoders raise for what cannot be written."""
    headers: Headers = {}
    if message.headers:
        if _plain(message.headers, top=True):
            headers.update(message.headers)
        else:
            headers["penstock-headers"] = msgspec.json.encode(message.headers).decode()
    if message.attempt:
        headers["penstock-attempt"] = message.attempt
    if message.key is not None:
        headers["penstock-key"] = message.key
    return _stamped(headers, ident, message.type, message.enqueued_at)


def _stamped(headers: Headers, ident: str, type_: str, at: float | None) -> spec.Basic.Properties:
    headers.pop("penstock-at", None)
    if at is not None and at != int(at):
        headers["penstock-at"] = repr(float(at))
    stamp = None if at is None else datetime.fromtimestamp(int(at), UTC)
    return spec.Basic.Properties(
        message_id=ident, message_type=type_, delivery_mode=2, timestamp=stamp, headers=headers or None
    )


def _plain(value: Any, *, top: bool = False) -> bool:
    """Whether AMQP can say it exactly, and nothing of ours is meant."""
    kind: type[Any] = type(value)
    if kind is str:
        return bool(value.isascii()) or _encodable(value)
    if kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_INT64 <= value < _INT64)
    if kind is list:
        return all(map(_plain, value))
    if top or kind is dict:
        return all(
            type(n) is str and _short(n) and not (top and (n.startswith(OURS) or _servers(n))) and _plain(v)
            for n, v in value.items()
        )
    return False


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _short(name: str) -> bool:
    return _encodable(name) and len(name.encode()) <= 128


def read(found: spec.Basic.Properties, body: bytes, ident: str) -> tuple[Message, str | None]:
    """The message, and what is wrong with it if it cannot be read."""
    headers: Headers = found.headers or {}
    defect: str | None = None
    extra: Mapping[str, Any] = EMPTY
    attempt = headers.get("penstock-attempt", 0)
    if type(attempt) is not int or attempt < 0:
        attempt, defect = 0, f"its header penstock-attempt is not a whole number: {attempt!r:.80}"
    if not found.message_type:
        defect = "its property type, which says what it is, is missing"
    if "penstock-headers" in headers:
        try:
            extra = msgspec.json.decode(headers["penstock-headers"], type=dict[str, Any])
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as wrong:
            defect = f"its header penstock-headers holds no JSON object: {wrong}"
    elif headers:
        extra = {n: _json(v) for n, v in headers.items() if not n.startswith(OURS) and not _servers(n)} or EMPTY
    key = headers.get("penstock-key")
    message = Message(
        id=ident,
        type=found.message_type or "",
        body=body,
        key=key if key is None else str(key),
        attempt=attempt,
        enqueued_at=_enqueued_at(found, headers),
        headers=extra,
    )
    return message, defect


def _enqueued_at(found: spec.Basic.Properties, headers: Headers) -> float | None:
    try:
        if "penstock-at" in headers:
            return float(headers["penstock-at"])
        return None if found.timestamp is None else found.timestamp.timestamp()
    except (TypeError, ValueError, AttributeError):
        return None


def _json(value: Any) -> Any:
    """A value of some other client as JSON can say it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("latin-1")
    if isinstance(value, list):
        items: list[Any] = value
        return [_json(each) for each in items]
    if isinstance(value, dict):
        members: Headers = value
        return {n: _json(v) for n, v in members.items()}
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def delivered(found: spec.Basic.Properties) -> int:
    """How often a message was handed over before: as the copy says, and as the server counted since."""
    headers: Headers = found.headers or {}
    return _whole(headers.get("x-delivery-count")) + _whole(headers.get("penstock-count"))


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def instance(found: spec.Basic.Properties) -> tuple[str, int] | None:
    """What tells a message from the copies made of it; ``None`` if its writer gave it no id."""
    if not found.message_id:
        return None
    return found.message_id, _whole((found.headers or {}).get("penstock-copy"))


def unlike_any() -> int:
    """A number of copy that no other copy of a message has."""
    return 1 + secrets.randbits(48)


def copied(found: spec.Basic.Properties, ident: str, **ours: Any) -> spec.Basic.Properties:
    """The same message once more, with these headers of ours (those that are ``None`` or 0 go)."""
    theirs = {n: v for n, v in (found.headers or {}).items() if not _servers(n)}
    headers: Headers = {n: theirs.pop(n) for n in list(theirs) if n.startswith(OURS)}
    if _plain(theirs, top=True):
        headers.update(theirs)
    else:  # such as a fraction, which the client library would round
        headers["penstock-headers"] = msgspec.json.encode(_json(theirs)).decode()
    headers["penstock-copy"] = _whole(headers.get("penstock-copy")) + 1
    for name, value in ours.items():
        headers.pop(full := OURS + name.replace("_", "-"), None)
        if value:
            headers[full] = value
    kept: Headers = {n: v for n, v in found if v is not None and n not in _LEFT_OUT}
    kept.update(message_id=ident, delivery_mode=2, headers=headers)
    return spec.Basic.Properties(**kept)


def retried(found: spec.Basic.Properties, ident: str, attempt: int, now: float) -> spec.Basic.Properties:
    """The message for its next attempt."""
    again = copied(found, ident, attempt=attempt, count=0)
    again.timestamp = datetime.fromtimestamp(int(now), UTC)
    if again.headers is not None:
        again.headers["penstock-at"] = repr(now)
    return again


def buried(
    found: spec.Basic.Properties, delivery: Delivery[Any], outcome: DeadLetter, owner: str, letter: str, now: float
) -> spec.Basic.Properties:
    """The message as a dead letter."""
    error = outcome.error
    return copied(
        found,
        delivery.message.id,
        attempt=delivery.attempt,
        count=0,
        letter=letter,
        reason=_storable(outcome.reason, _TEXT),
        error=None if error is None else _storable(f"{type(error).__name__}: {_text(error)}", _TEXT),
        traceback=None if error is None else _storable("".join(traceback.format_exception(error)), -_TRACEBACK),
        meta=None if outcome.meta is UNSET else _meta(outcome.meta),
        group=delivery.group,
        owner=owner,
        died_at=repr(now),
        defect=delivery.defect and _storable(delivery.defect, _TEXT),
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is must not stop the dead letter
        return "<no text>"


def _storable(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text[most:] if most < 0 else text[:most]


def _meta(meta: Any) -> str:
    """As JSON. What is none is kept as its text, and of what is too large the beginning: a dead letter is no place to
    fail.
    """
    try:
        text = msgspec.json.encode(meta).decode()
    except Exception:  # noqa: BLE001 - whatever the user's object does
        text = msgspec.json.encode(_storable(repr(meta), _TEXT)).decode()
    return (
        text
        if len(text.encode()) <= _META
        else msgspec.json.encode(f"{text[:_TEXT]}… ({len(text)} characters)").decode()
    )


def letter_of(found: spec.Basic.Properties, body: bytes, fallback: str) -> DeadMessage:
    """A dead letter: ours, or one that the server buried by itself, whose reason is the server's."""
    headers: Headers = found.headers or {}
    message, defect = read(found, body, found.message_id or fallback)
    reason = headers.get("penstock-reason")
    if reason is None and headers.get("x-first-death-reason") and "penstock-letter" not in headers:
        reason = str(headers["x-first-death-reason"]).replace("delivery_limit", "poison")
    meta = headers.get("penstock-meta")
    return DeadMessage(
        id=letter_id(found) or fallback,
        message=message,
        reason=str(reason or ""),
        error=headers.get("penstock-error"),
        meta=None if meta is None else msgspec.json.decode(meta),
        group=str(headers.get("penstock-group", "")),
        owner=str(headers.get("penstock-owner", "")),
        died_at=float(headers["penstock-died-at"]) if "penstock-died-at" in headers else None,
        raw=None if defect is None else _raw(found, body),
    )


def letter_id(found: spec.Basic.Properties) -> str | None:
    """What names a dead letter."""
    named = (found.headers or {}).get("penstock-letter")
    return str(named) if named else found.message_id


def _raw(found: spec.Basic.Properties, body: bytes) -> bytes:
    """Properties and body as JSON, the body in base64."""
    known = {n: _json(v) for n, v in found if v is not None}
    return msgspec.json.encode({"properties": known, "body": base64.b64encode(body).decode()})


def fresh(letter: DeadMessage, ident: str, now: float) -> spec.Basic.Properties:
    """A dead letter's message to be published again, its attempts forgotten.

    It has the id of the one that died, whose outcome some worker may remember: a number of copy that no copy of that
    one has tells them apart.
    """
    again = properties(msgspec.structs.replace(letter.message, attempt=0, enqueued_at=now), ident)
    again.headers = {**(again.headers or {}), "penstock-copy": unlike_any()}
    return again
