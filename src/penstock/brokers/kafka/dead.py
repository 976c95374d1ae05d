"""Dead letters: a topic of their own beside each stream, compacted by the letter's name.

The record's key is the name of the letter, so that an empty record of the same name takes it away: that is how a letter
is requeued or purged, by any number of people at once. The server drops both when it compacts the topic. The headers
are those of the message; beside them ``key`` (of the message), ``group``, ``reason``, ``error``, ``owner``, ``died_at``,
``meta`` (JSON) and, of a record that could not be read, ``raw`` (its key and headers as JSON; bytes as base64).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from ...broker import DeadMessage
from ...message import EMPTY, Delivery, Message
from ...outcome import DeadLetter
from .book import Entry
from .options import dead_topic
from .producing import Writing
from .records import Record
from .wire import Headers, headers_of, raw_of

OURS = frozenset({"key", "group", "reason", "error", "owner", "died_at", "meta", "raw"})
MARK = "dead:"  # before our names: a message may have a header ``reason`` of its own
LONGEST_ERROR, LONGEST_REASON, LONGEST_META = 10_000, 2_000, 16 * 1024  # a dead letter must fit into a record


def letter(topic: str, delivery: Delivery[Entry], outcome: DeadLetter, owner: str, now: float) -> Writing:
    """The record of a dead letter."""
    message, record = delivery.message, delivery.receipt.record
    own: dict[str, bytes] = {
        "group": delivery.group.encode(),
        "reason": outcome.reason[:LONGEST_REASON].encode(errors="replace"),
        "owner": owner.encode(),
        "died_at": b"%.3f" % now,
    }
    if outcome.error is not None:
        own["error"] = _told(outcome.error).encode(errors="replace")
    if outcome.meta is not UNSET:
        own["meta"] = _json(outcome.meta)
    if message.key is not None:
        own["key"] = message.key.encode()
    if delivery.defect is not None:
        own["raw"] = raw_of(record.raw.key(), record.headers)
    name = f"{message.id}/{delivery.group}/{delivery.receipt.book.partition}-{record.offset}"
    headers = headers_of(replace(message, attempt=delivery.attempt), now)
    return Writing(
        dead_topic(topic),
        name.encode(),
        message.body,
        [*headers, *((MARK + each, value) for each, value in own.items())],
    )


def read_letter(ident: str, record: Record) -> DeadMessage:
    """What a record of the topic says."""
    own: dict[str, bytes] = {}
    rest: Headers = []
    for name, value in record.headers:
        if name.startswith(MARK) and name.removeprefix(MARK) in OURS:
            own[name.removeprefix(MARK)] = value
        else:
            rest.append((name, value))
    message, _, defect = record.read()
    raw = own.get("raw")
    if defect is None:
        headers = {name: value for name, value in message.headers.items() if not name.startswith(MARK)}
        key = own.get("key")
        message = replace(message, key=None if key is None else key.decode(errors="replace"), headers=headers or EMPTY)
    else:
        raw = raw or raw_of(record.raw.key(), rest)
    died = _text(own.get("died_at"))
    return DeadMessage(
        id=ident,
        message=message,
        reason=_text(own.get("reason")) or "",
        error=_text(own.get("error")),
        meta=_meta(own.get("meta")),
        group=_text(own.get("group")) or "",
        owner=_text(own.get("owner")) or "",
        died_at=float(died) if died else None,
        raw=raw,
    )


def fresh(letters: Iterable[DeadMessage]) -> list[Message]:
    """The messages of those that can be read, as they were before their first attempt."""
    return [replace(each.message, attempt=0, enqueued_at=None) for each in letters if each.raw is None]


def gone(topic: str, names: Sequence[bytes]) -> list[Writing]:
    """The records that take letters away."""
    return [Writing(dead_topic(topic), name, None, []) for name in names]


def _told(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is must not stop the dead letter
        text = "<no text>"
    return f"{type(error).__name__}: {text[:LONGEST_ERROR]}"


def _json(value: Any) -> bytes:
    """As JSON; of what is too large, the beginning: a dead letter is no place to fail."""
    try:
        found = msgspec.json.encode(value)
    except Exception:  # noqa: BLE001 - whatever somebody hands in
        return msgspec.json.encode(f"<{type(value).__name__} that cannot be written as JSON>")
    if len(found) <= LONGEST_META:
        return found
    return msgspec.json.encode(f"{found[:LONGEST_REASON].decode(errors='replace')}… ({len(found)} bytes)")


def _meta(raw: bytes | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="replace")
