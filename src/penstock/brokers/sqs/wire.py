"""The format on the wire, as pure functions.

The body is the body, where SQS can carry it: it takes no empty text and not every character, so other bytes go as
base64, and the meta data say so. Attribute ``type`` (String): the message's type. Attribute ``penstock`` (String): one
JSON object with what else there is: ``id`` (of the first copy, once there has been another), ``key``, ``attempt``,
``enqueuedAt`` (ms), ``count`` (deliveries before this copy was written), ``due`` (ms since the epoch: not to be handed
out earlier), ``encoding`` (``base64``), ``headers``; in a dead letter also ``dead``. All may be missing.

A message without ``penstock`` is somebody else's: its body is the body, its other attributes are headers.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import traceback
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET

from ...errors import PayloadTooLarge
from ...message import EMPTY, Delivery, Message
from ...outcome import DeadLetter
from .options import MAX_DELAY

TYPE, META = "type", "penstock"
MAX_TRACEBACK = 8192
MAX_TEXT = 2048
MAX_META = 16 * 1024

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Dead(msgspec.Struct, omit_defaults=True, rename="camel"):
    """What a dead letter says of its death. ``raw``: the whole message, where it could not be read."""

    reason: str
    group: str
    owner: str
    died_at: float
    error: str | None = None
    traceback: str | None = None
    meta: Any = None
    raw: str | None = None


class Meta(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """The attribute ``penstock``."""

    id: str | None = None
    type: str | None = None
    key: str | None = None
    attempt: Count = 0
    enqueued_at: int | None = None
    count: Count = 0
    due: int | None = None
    encoding: str | None = None
    headers: Mapping[str, Any] = EMPTY
    dead: Dead | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Meta).decode
_decode_any = msgspec.json.Decoder().decode


class Read(msgspec.Struct, gc=False):
    """What lay in a queue. ``count``: this handing-over included. ``defect``: why it is no message of ours."""

    message: Message
    count: int
    due: float | None = None
    defect: str | None = None
    dead: Dead | None = None


def entry(message: Message, *, count: int = 0, due: float | None = None, dead: Dead | None = None) -> dict[str, Any]:
    """A message as SQS takes it, without what says where it goes. Raises what msgspec raises for headers no JSON has."""
    body, encoding = _text(message.body)
    at = message.enqueued_at
    meta = Meta(
        id=message.id or None,
        type=None if _legal(message.type) else message.type,
        key=message.key,
        attempt=message.attempt,
        enqueued_at=None if at is None else round(at * 1000),
        count=count,
        due=None if due is None else round(due * 1000),
        encoding=encoding,
        headers=message.headers or EMPTY,
        dead=dead,
    )
    text = _ILLEGAL.sub(_escaped, _encode(meta).decode())
    attributes = {META: _string(text)}
    if meta.type is None:
        attributes[TYPE] = _string(message.type)
    return {"MessageBody": body, "MessageAttributes": attributes}


def delayed(message: Message, delay: float, now: float, *, count: int = 0) -> dict[str, Any]:
    """A message for a standard queue, to be handed out in ``delay`` seconds: what SQS cannot wait for, it says itself."""
    due = now + delay if delay > MAX_DELAY else None
    written = entry(message, count=count, due=due)
    if delay > 0:
        written["DelaySeconds"] = math.ceil(min(delay, MAX_DELAY))
    return written


def size(entry_: Mapping[str, Any]) -> int:
    """The bytes that SQS counts: the body, and of each attribute name, kind and value."""
    total = len(entry_["MessageBody"].encode())
    for name, attribute in entry_["MessageAttributes"].items():
        total += len(name) + len("String") + len(attribute["StringValue"].encode())
    return total


def too_large(found: int, most: int) -> PayloadTooLarge:
    """A message that no call can carry."""
    return PayloadTooLarge(
        f"the message has {found} bytes as SQS counts them, {most} are allowed (bytes that are no text take a third"
        " more); send a reference to the payload"
    )


def read(raw: Mapping[str, Any], default_type: str) -> Read:
    """What was received."""
    attributes: Mapping[str, Any] = raw.get("MessageAttributes") or {}
    body: str = raw.get("Body", "")
    times = int(raw.get("Attributes", {}).get("ApproximateReceiveCount", 1))
    type_ = attributes.get(TYPE, {}).get("StringValue") or default_type
    written = attributes.get(META)
    if written is None:
        message = Message(id=raw["MessageId"], type=type_, body=body.encode(), headers=_foreign(attributes))
        return Read(message=message, count=times)
    try:
        meta = _decode(written.get("StringValue") or "")
        content = _bytes(body, meta.encoding)
    except (ValueError, RecursionError) as wrong:  # those of msgspec and of base64 are ValueErrors
        message = Message(id=raw["MessageId"], type=type_, body=body.encode())
        return Read(message=message, count=times, defect=f"its attribute {META!r} or its encoding is broken: {wrong}")
    message = Message(
        id=meta.id or raw["MessageId"],
        type=meta.type or type_,
        body=content,
        key=meta.key,
        attempt=meta.attempt,
        enqueued_at=None if meta.enqueued_at is None else meta.enqueued_at / 1000,
        headers={**_foreign(attributes), **meta.headers} if len(attributes) > 2 else meta.headers,
    )
    due = None if meta.due is None else meta.due / 1000
    return Read(message=message, count=meta.count + times, due=due, dead=meta.dead)


def obituary(delivery: Delivery[Any], outcome: DeadLetter, owner: str, now: float, raw: Any) -> Dead:
    """What a dead letter says; ``raw``: the message as it was received, where it could not be read."""
    error = outcome.error
    text = trace = None
    if error is not None:
        text = f"{type(error).__name__}: {_said(error)}"[:MAX_TEXT]
        trace = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
    return Dead(
        reason=_clean(outcome.reason[:MAX_TEXT]),
        group=delivery.group,
        owner=owner,
        died_at=round(now * 1e6) / 1e3,
        error=None if text is None else _clean(text),
        traceback=None if trace is None else _clean(trace),
        meta=None if outcome.meta is UNSET else _bounded(to_json(outcome.meta)),
        raw=None if delivery.defect is None else _encode(to_json(raw)).decode(),
    )


def buried(message: Message, dead: Dead, most: int) -> dict[str, Any]:
    """A dead letter. One that is too large says less of its death: it is no place to fail."""
    written = entry(message, dead=dead)
    if size(written) <= most:
        return written
    raw = None if dead.raw is None else '"it was too large to be kept twice: its body is that of this letter"'
    return entry(message, dead=msgspec.structs.replace(dead, traceback=None, meta=None, raw=raw))


def _bounded(value: Any) -> Any:
    """The value, or the beginning of one that is too large."""
    text = _encode(value)
    return value if len(text) <= MAX_META else f"{text[:MAX_TEXT].decode(errors='replace')}… ({len(text)} bytes)"


def to_json(value: Any) -> Any:
    """The value, or its repr if JSON has no such thing."""
    try:
        return _decode_any(_encode(value))
    except Exception:  # noqa: BLE001 - an object of the user may raise anything
        return _said(value)


def _said(value: Any) -> str:
    try:
        return _clean(str(value) if isinstance(value, BaseException) else repr(value))
    except Exception:  # noqa: BLE001 - a text of the user's class may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


def _clean(text: str) -> str:
    """Text that UTF-8 can carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(body: bytes) -> tuple[str, str | None]:
    """A body as SQS can carry it, and its encoding."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
    if text and _ILLEGAL.search(text) is None:
        return text, None
    return base64.b64encode(body).decode() or "=", "base64"


def _bytes(body: str, encoding: str | None) -> bytes:
    if encoding is None:
        return body.encode()
    if encoding != "base64":
        raise ValueError(f"an encoding is base64 or none, got {encoding!r:.80}")
    try:
        return b"" if body == "=" else base64.b64decode(body, validate=True)
    except binascii.Error as wrong:
        raise ValueError(f"its body is no base64: {wrong}") from None


def _string(text: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": text}


def _legal(text: str) -> bool:
    return bool(text) and _ILLEGAL.search(text) is None


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _foreign(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes that others have set: texts and numbers as texts, bytes as base64."""
    found: dict[str, Any] = {}
    for name, attribute in attributes.items():
        if name not in {TYPE, META}:
            value = attribute.get("StringValue")
            found[name] = base64.b64encode(attribute.get("BinaryValue", b"")).decode() if value is None else value
    return found or EMPTY
