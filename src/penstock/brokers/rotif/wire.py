"""The wire format of Rotif 0.2 as pure functions.

An entry of ``rotif:stream:<pattern>`` and of its ``:retry``: ``channel``, ``payload`` (JSON), ``timestamp`` (ms, of the
first publish), ``attempt`` (from 1), ``exactlyOnce``, ``dedupTTL`` (seconds); then, only where there is something to say,
``key``, ``headers`` (JSON) and ``retryGroup`` (the only group that a message is for), which the original passes over.

``rotif:delayed:<uuid>``: those as a JSON object of texts, with ``streamKey``; the uuid is a member of ``rotif:scheduled``,
scored with the time in ms at which it is due.

An entry of ``rotif:dlq``: ``channel``, ``payload``, ``error``, ``timestamp``, ``attempt``, ``streamKey``; then as its
successor ``exactlyOnce`` and ``dedupTTL``; then ours: ``id``, ``group``, ``reason``, ``failedAt``, ``owner``; ``errorType``, ``stack``,
``meta``, ``key``, ``headers`` where there are any, and ``raw`` if the entry could not be read.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET

from ...broker import DeadMessage
from ...errors import EncodeError
from ...message import EMPTY, Delivery, Message
from ...outcome import DeadLetter
from ..redis_streams.wire import MAX_TEXT, MAX_TRACEBACK, Fields, Unreadable, parse_json, raw_field, to_json
from .options import STREAM

EXACTLY_ONCE, DEDUP_TTL = "exactlyOnce", "dedupTTL"
ONLY_FOR = b"retryGroup"
_encode = msgspec.json.Encoder().encode


def text_of(number: float) -> str:
    """A number of seconds as JavaScript prints it."""
    return str(int(number)) if float(number).is_integer() else repr(number)


def fields_of(message: Message, now: float, dedup_ttl: float) -> list[bytes | str]:
    """A new message as an entry. Raises ``EncodeError`` for headers that are no JSON."""
    headers = message.headers
    once, ttl = bool(headers.get(EXACTLY_ONCE)), headers.get(DEDUP_TTL, dedup_ttl) if headers else dedup_ttl
    at = now if message.enqueued_at is None else message.enqueued_at
    fields: list[bytes | str] = [
        *("channel", message.type, "payload", message.body, "timestamp", str(round(at * 1000))),
        *("attempt", str(message.attempt + 1), "exactlyOnce", "true" if once else "false", "dedupTTL", text_of(ttl)),
    ]
    if message.key is not None:
        fields += ["key", message.key]
    rest = {name: value for name, value in headers.items() if name not in {EXACTLY_ONCE, DEDUP_TTL}}
    if rest:
        try:
            fields += ["headers", _encode(rest)]
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise EncodeError(f"the headers of a message are JSON values: {error}") from error
    return fields


def delayed_body(fields: Sequence[bytes | str]) -> tuple[bytes, bytes]:
    """A delayed message's JSON object, before and behind the name of its stream."""
    named = {_text(fields[i]): _text(fields[i + 1]) for i in range(0, len(fields) - 1, 2)}
    payload = named.pop("payload")
    return _encode(named)[:-1] + b',"streamKey":', b',"payload":%b}' % _encode(payload)


def again(fields: Fields, stream: str, attempt: int, group: str) -> tuple[bytes, bytes, bytes]:
    """What comes again, in three parts: its name and body, the mark that it is for ``group`` only, the end."""
    named = {_text(fields[i]): _text(fields[i + 1]) for i in range(0, len(fields) - 1, 2)}
    named.pop("retryGroup", None)
    named["attempt"], named["streamKey"] = str(attempt), stream
    head = uuid.uuid4().hex
    name = f"{head[:8]}-{head[8:12]}-{head[12:16]}-{head[16:20]}-{head[20:]}"
    return name.encode() + _encode(named)[:-1], b',"retryGroup":%b' % _encode(group), b"}"


def read_entry(ident: str, fields: Fields) -> tuple[Message, str | None]:
    """The message of an entry and the only group it is meant for; or ``Unreadable``."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    channel, payload = named.get(b"channel"), named.get(b"payload")
    if channel is None or payload is None:
        raise Unreadable(f"it has no field {'channel' if channel is None else 'payload'}")
    only = named.get(ONLY_FOR)
    try:
        payload.decode()
        key, name = named.get(b"key"), channel.decode()
        message = Message(
            id=ident,
            type=name,
            body=payload,
            key=None if key is None else key.decode(),
            attempt=max(int(named.get(b"attempt", b"1")) - 1, 0),
            enqueued_at=int(named[b"timestamp"]) / 1000 if b"timestamp" in named else None,
            headers=_headers(named),
        )
        return message, None if only is None else only.decode()
    except ValueError as wrong:
        raise Unreadable(f"one of its fields cannot be read: {wrong}") from None


def _headers(named: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    raw, once = named.get(b"headers"), named.get(b"exactlyOnce") == b"true"
    if raw is None and not once:
        return EMPTY
    found: Any = parse_json(raw)
    headers: dict[str, Any] = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if once:
        headers[EXACTLY_ONCE], headers[DEDUP_TTL] = True, _ttl(named.get(b"dedupTTL"))
    return headers


def _ttl(raw: bytes | None) -> float:
    try:
        return float(raw) if raw is not None else 3600.0
    except ValueError:
        return 3600.0


def dead_fields(delivery: Delivery[Any], fields: Fields, outcome: DeadLetter, owner: str, now: float) -> list[Any]:
    """A delivery as an entry of the dead letters."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    found: list[Any] = []
    for name in (b"channel", b"payload"):
        if name in named:
            found += [name, named[name]]
    found += ["error", error_text(outcome)]
    if b"timestamp" in named:
        found += [b"timestamp", named[b"timestamp"]]
    found += ["attempt", str(delivery.attempt + 1), "streamKey", delivery.source]
    found += _present(named, b"exactlyOnce", b"dedupTTL")
    found += ["id", delivery.message.id, "group", delivery.group, "reason", outcome.reason]
    found += ["failedAt", str(round(now * 1000)), "owner", owner]
    if outcome.error is not None:
        stack = "".join(traceback.format_exception(outcome.error))[-MAX_TRACEBACK:]
        found += ["errorType", type(outcome.error).__name__, "stack", stack.encode("utf-8", "replace")]
    if outcome.meta is not UNSET:
        found += ["meta", to_json(outcome.meta)]
    found += _present(named, b"key", b"headers")
    if delivery.defect is not None:
        found += ["raw", raw_field(fields)]
    return found


def _present(named: Mapping[bytes, bytes], *names: bytes) -> Iterable[bytes]:
    return [part for name in names if name in named for part in (name, named[name])]


def error_text(outcome: DeadLetter) -> str:
    """What the original's consumers read: the error's message."""
    if outcome.error is None:
        return outcome.reason or "unknown"
    try:
        text = str(outcome.error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is must not stop the dead letter
        text = ""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode() or "unknown"


def letter(ident: str, fields: Fields) -> DeadMessage:
    """An entry of the dead letters, whoever wrote it."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    raw = named.get(b"raw")
    try:
        message = read_entry(named.get(b"id", b"").decode("utf-8", "replace"), fields)[0]
    except Unreadable:
        message = Message(id="", type="", body=named.get(b"payload", b""))
        raw = raw or json.dumps([_shown(part) for part in fields]).encode()
    failed = named.get(b"failedAt", b"")
    return DeadMessage(
        id=ident,
        message=message,
        reason=_shown(named.get(b"reason", named.get(b"error", b""))),
        error=_error(named),
        meta=parse_json(named.get(b"meta")),
        group=_shown(named.get(b"group", b"")),
        owner=_shown(named.get(b"owner", b"")),
        died_at=int(failed if failed.isdigit() else ident.partition("-")[0]) / 1000,
        raw=raw,
    )


def _error(named: Mapping[bytes, bytes]) -> str | None:
    text, kind = named.get(b"error"), named.get(b"errorType")
    if text is None:
        return None
    return f"{_shown(kind)}: {_shown(text)}" if kind is not None else _shown(text)


def origin(fields: Fields) -> str:
    """The stream that a dead letter came from."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    stream = named.get(b"streamKey")
    return _shown(stream) if stream is not None else STREAM + _shown(named.get(b"channel", b""))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _shown(value: bytes) -> str:
    return value.decode("utf-8", "replace")
