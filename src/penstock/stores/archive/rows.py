"""Events on their way to the table, and rows on their way back.

The payload is a JSON object with the names of the original's ``SerializedJob``: ``id type className data createdAt
delaySeconds attempts error failedAt``. Ours are ``messageId``, ``key``, ``group``, ``headers``, ``reason``,
``bodyBytes`` in place of a body that was too large to keep, and ``event``, which tells two tellings of one event from two.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from ...audit import JOB_ID
from ...message import Message

ERROR_SHOWN = 8 * 1024  # characters kept of an error's text
BODY_KEPT = 1024 * 1024  # bytes of a body; of a larger one the row says only how large it was
SIZE_HEADER = "penstock-archive-body-bytes"
OVERHEAD = 512  # bytes that an event holds beside its body, about


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to a job. ``once``: it may have been told before, when the same was sent before."""

    event: str
    status: str
    queue: str
    message: Message
    ident: str
    at: float
    attempts: int
    group: str | None = None
    reason: str | None = None
    error: str | None = None
    delay: float = 0.0
    once: bool = False

    @property
    def job_id(self) -> str:
        """The name that lasts."""
        headers = self.message.headers
        if not headers:
            return self.ident
        return str(headers.get(JOB_ID) or headers.get("jid") or self.ident)

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return len(self.message.body) + OVERHEAD


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the system's log. ``timestamp``: seconds since the epoch."""

    level: str
    message: str
    worker_id: str
    queue: str | None = None
    timestamp: float
    id: int = 0

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return len(self.message) + OVERHEAD


class ArchivedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A row: something that happened to a job.

    ``status``: ``waiting``, ``completed``, ``failed``; also ``discarded``, ``expired``, ``unconfirmed``. ``payload``: the
    JSON object, or its text where it is none. ``created_at``, ``archived_at``: seconds since the epoch.
    """

    id: int
    job_id: str
    queue: str
    status: str
    payload: Any
    error: str | None
    created_at: float | None
    archived_at: float | None

    @property
    def type(self) -> str:
        """The type of the job."""
        return str(self._field("className") or self._field("type") or "")

    @property
    def body(self) -> bytes | None:
        """What the job carried, if the row has it."""
        data = self._field("data")
        if not isinstance(data, str):
            return None
        if self._field("type") != "binary":
            return data.encode()
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            return None

    def _field(self, name: str) -> Any:
        return _get(self.payload, name)


def job_row(entry: Entry) -> dict[str, Any]:
    """The columns of an event."""
    return {
        "job_id": storable(entry.job_id),
        "queue": storable(entry.queue),
        "status": entry.status,
        "payload": _payload(entry),
        "error": None if entry.error is None and entry.reason is None else storable(entry.error or entry.reason or ""),
        "created_at": entry.message.enqueued_at,
        "archived_at": entry.at,
    }


def log_row(line: LogLine) -> dict[str, Any]:
    """The columns of a line."""
    return {
        "level": line.level,
        "message": storable(line.message),
        "worker_id": storable(line.worker_id),
        "queue": None if line.queue is None else storable(line.queue),
        "timestamp": line.timestamp,
    }


def archived(row: Mapping[Any, Any]) -> ArchivedJob:
    """A row as a value."""
    text: Any = row["payload"]
    try:
        payload = msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        payload = text
    return ArchivedJob(**{**row, "payload": payload})


def logged(row: Mapping[Any, Any]) -> LogLine:
    """A row as a value."""
    return LogLine(**row)


def event_of(payload: Any) -> str | None:
    """The event that a row is about, if it is one of ours."""
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, TypeError):
        return None
    event = _get(found, "event")
    return event if isinstance(event, str) else None


def _get(payload: Any, name: str) -> Any:
    return cast("dict[str, Any]", payload).get(name) if isinstance(payload, dict) else None


def storable(text: str) -> str:
    """Text that a database takes: no NUL, no half surrogate pairs."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "backslashreplace").decode()


def _payload(entry: Entry) -> str:
    message, headers = entry.message, dict(entry.message.headers)
    kind, data = _written(message.body)
    left_out = headers.pop(SIZE_HEADER, None)
    fields: dict[str, Any] = {
        "id": entry.job_id,
        "type": kind,
        "className": message.type,
        "data": data if left_out is None else None,
        "bodyBytes": left_out,
        "createdAt": None if message.enqueued_at is None else round(message.enqueued_at * 1000),
        "delaySeconds": entry.delay or None,
        "attempts": entry.attempts,
        "messageId": entry.ident,
        "key": message.key,
        "group": entry.group,
        "headers": headers or None,
        "reason": entry.reason,
        "error": entry.error,
        "failedAt": round(entry.at * 1000) if entry.group is not None and entry.reason is not None else None,
        "event": entry.event,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    try:
        return storable(msgspec.json.encode(present).decode())
    except (TypeError, ValueError, RecursionError, UnicodeError):  # headers of a driver's own making
        present["headers"] = repr(headers)
        return storable(msgspec.json.encode(_plain(present)).decode())


def _written(body: bytes) -> tuple[str, str]:
    """A body as text, and the kind of text."""
    try:
        return "json", body.decode()
    except UnicodeDecodeError:
        return "binary", base64.b64encode(body).decode()


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: storable(value) if isinstance(value, str) else value for name, value in fields.items()}
