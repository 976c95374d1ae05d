"""A job as Sidekiq writes it, and as a Message.

``class`` is the type, ``args`` the body, ``jid`` the id, ``retry_count`` + 1 the attempt. Every other field of the job
is a header, and back. What a message has that a job has not is in a field of our own, ``penstock``: a body that is no
JSON array, why it died. A text once written is never written anew from its parsed form: fields are cut out and put in,
so that what others wrote comes back byte for byte; in the sorted sets without blanks and needless escapes.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from msgspec import Raw

from ...errors import EncodeError
from ...message import Message
from . import ruby_json

logger = logging.getLogger("penstock")

Fields: TypeAlias = dict[str, Raw]
Timestamps: TypeAlias = Literal["ms", "float"]

OURS: Final = "penstock"
SINCE: Final = "since"  # of ours: when a job that was put off was put in its queue, in seconds
COPY: Final = "penstock_copy"  # tells a job from an equal one in the same sorted set
ERRORS: Final = ("error_message", "error_class", "failed_at", "retried_at", "error_backtrace")
_FRAMING: Final = frozenset(
    {"queue", "class", "args", "jid", "created_at", "enqueued_at", "retry_count", "key", OURS, COPY, *ERRORS}
)
_HARMLESS = re.compile(r"[\w:.-]+", re.ASCII).fullmatch  # needs no escaping
_NO_TIME = 1e18
_MILLISECONDS = 1e11  # an integer from here on is milliseconds; in seconds it would be the year 5138

_fields = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder(Any)
_integer = msgspec.json.Decoder(int)
_raw = msgspec.json.Decoder(Raw)


class JobHeaders(dict[str, Any]):
    """The headers of a job, and in ``raw`` its own text: for who must know more of it."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        super().__init__()


class Written(dict[str, Any]):
    """The headers of a job whose text its client has made already, every field in its place but ``enqueued_at``."""

    __slots__ = ("text",)

    def __init__(self, headers: Mapping[str, Any], text: bytes) -> None:
        self.text = text
        super().__init__(headers)


class _Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A job as most are: nothing in it but this."""

    type: str = msgspec.field(name="class")
    args: Raw
    jid: str
    queue: str = ""
    retry: bool | int = True
    created_at: int | float = 0
    enqueued_at: int | float = 0


_plain = msgspec.json.Decoder(_Plain)


class Malformed(Exception):
    """This is no job; the text says why."""


# ------------------------------------------------------------------------------------------------------------- reading


def parse(raw: bytes) -> Fields:
    """The fields of a job, each as it stands there. Raises ``Malformed``."""
    try:
        fields = _fields.decode(raw)
        ruby_json.check_depth(raw)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not a JSON object: {error}") from error
    missing = [name for name in ("class", "args") if name not in fields]
    if missing:
        raise Malformed(f"not a job: it has no {' and no '.join(missing)}")
    if not bytes(fields["class"]).startswith(b'"'):
        raise Malformed(f"not a job: its class is {bytes(fields['class'])[:60]!r}, expected a text")
    if not bytes(fields["args"]).startswith(b"["):
        raise Malformed(f"not a job: its args are {bytes(fields['args'])[:60]!r}, expected an array")
    return fields


def message_of(raw: bytes) -> Message:
    """The message in a job. Raises ``Malformed``."""
    try:
        job = _plain.decode(raw)
        ruby_json.check_depth(raw)
    except (ValueError, RecursionError):
        return _any_message(raw)
    body, at = bytes(job.args), job.enqueued_at or job.created_at
    if body[:1] != b"[" or not job.jid:
        return _any_message(raw)
    headers = JobHeaders(raw)
    if job.retry is not True:
        headers["retry"] = job.retry
    if not isinstance(at, float) and at >= _MILLISECONDS:
        if at >= _NO_TIME:
            return _any_message(raw)
        at /= 1000
    return Message(id=job.jid, type=job.type, body=body, enqueued_at=at or None, headers=headers)


def _any_message(raw: bytes) -> Message:
    fields = parse(raw)
    try:
        return _message(fields, raw)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"not a job: {error}") from error


def _message(fields: Fields, raw: bytes) -> Message:
    get = fields.get
    count, jid, key = get("retry_count"), get("jid"), get("key")
    since = ours(fields).get(SINCE)
    return Message(
        id=jid_of(jid, raw),
        type=_text.decode(fields["class"]),
        body=bytes(fields["args"]) if OURS not in fields else _body(fields),
        key=None if key is None or bytes(key)[:1] != b'"' else _text.decode(key),  # a stranger's may be anything
        attempt=0 if count is None or bytes(count) == b"null" else _integer.decode(count) + 1,
        enqueued_at=since if isinstance(since, float) else seconds(get("enqueued_at") or get("created_at")),
        headers=_headers(fields, raw),
    )


def jid_of(jid: Raw | None, raw: bytes) -> str:
    """The id of a job; of one that has none, a digest of it."""
    if text := text_in(jid):
        return text
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:24]


def queue_of(fields: Fields) -> str | None:
    """The queue that a job names."""
    return text_in(fields.get("queue"))


def text_in(value: Raw | None) -> str | None:
    """A text that is not empty."""
    try:
        return None if value is None else _text.decode(value) or None
    except ValueError:
        return None


def ours(fields: Fields) -> dict[str, Any]:
    """What is ours in a job."""
    value: Any = _any.decode(fields[OURS]) if OURS in fields else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def seconds(time: Raw | None) -> float | None:
    """A time in a job as seconds since the epoch, whoever wrote it; ``None`` for what is no time."""
    value: Any = None if time is None else _any.decode(time)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < _NO_TIME:
        return None
    return value / 1000 if isinstance(value, int) and value >= _MILLISECONDS else float(value)


def _headers(fields: Fields, raw: bytes) -> JobHeaders:
    headers = JobHeaders(raw)
    headers.update((name, _any.decode(value)) for name, value in fields.items() if name not in _FRAMING)
    if headers.get("retry") is True:
        del headers["retry"]
    headers.update(ours(fields).get("headers") or {})
    return headers


def _body(fields: Fields) -> bytes:
    form = ours(fields).get("body")
    args = bytes(fields["args"])
    if form is None:
        return args
    (only,) = msgspec.json.decode(args, type=list[Raw])
    return base64.b64decode(_text.decode(only), validate=True) if form == "base64" else bytes(only)


# ------------------------------------------------------------------------------------------------------------- writing


def stamp(now: float, timestamps: Timestamps) -> bytes:
    """A time as it stands in a job."""
    return b"%d" % int(now * 1000) if timestamps == "ms" else ruby_json.dumps(now)


def new_jid() -> str:
    """24 hex digits, as Ruby makes them."""
    return os.urandom(12).hex()


def job_of(message: Message, queue: str, now: float, timestamps: Timestamps, *, enqueued: bool) -> tuple[str, bytes]:
    """The jid and the text of the job for a message. Raises ``EncodeError``."""
    headers, mine, at = message.headers, dict[str, Any](), message.enqueued_at
    if type(headers) is Written:
        since = b',"enqueued_at":%b}' % stamp(now if at is None else at, timestamps) if enqueued else b"}"
        return headers["jid"], headers.text[:-1] + since
    try:
        args = _args(message.body, mine)
        jid: Any = message.id or (headers.get("jid") if headers else None) or new_jid()
        created = stamp(now, timestamps)
        retry, options = b"true", b""
        if headers:
            retry = ruby_json.dumps(headers.get("retry", True))
            if "created_at" in headers:
                created = ruby_json.dumps(headers["created_at"])
            options = _options(headers, mine)
        if message.key is not None:
            options += b'"key":%b,' % ruby_json.dumps(message.key)
        if mine:
            options += b'"penstock":%b,' % ruby_json.dumps(mine)
        if message.attempt:
            options += b'"retry_count":%d,' % (message.attempt - 1)
        since = b""
        if enqueued:
            since = b',"enqueued_at":%b' % (created if at is None or at == now else stamp(at, timestamps))
        return jid, b'{"retry":%b,"queue":%b,%b"args":%b,"class":%b,"jid":"%b","created_at":%b%b}' % (
            retry,
            _name(queue),
            options,
            args,
            _name(message.type),
            jid.encode() if _HARMLESS(jid) else ruby_json.dumps(jid)[1:-1],
            created,
            since,
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(f"the message of type {message.type!a} cannot be written as a job: {error}") from error


@lru_cache(maxsize=1024)
def _name(text: str) -> bytes:
    """A class or a queue: there are few, and they come again and again."""
    return ruby_json.dumps(text)


def _args(body: bytes, mine: dict[str, Any]) -> bytes:
    """The text of ``args``, and in ``mine`` how to make the body of it again."""
    try:
        if not body.isascii():
            body.decode()
        _raw.decode(body)
    except (ValueError, RecursionError):
        mine["body"] = "base64"
        return b'["%b"]' % base64.b64encode(body)
    if body[:1] == b"[":
        return body
    mine["body"] = "json"
    return b"[%b]" % body


def _options(headers: Mapping[str, Any], mine: dict[str, Any]) -> bytes:
    """Headers as fields; those whose names are taken are kept aside."""
    aside: dict[str, Any] = {}
    parts: list[bytes] = []
    for name, value in headers.items():
        if name in {"jid", "created_at", "retry", "at"}:
            continue
        if name in _FRAMING:
            aside[name] = value
        else:
            parts.append(b"%b:%b," % (ruby_json.dumps(name), ruby_json.dumps(value)))
    if aside:
        mine["headers"] = aside
    return b"".join(parts)


def write(fields: Mapping[str, Raw | bytes]) -> bytes:
    """Fields as the text of a job."""
    return b"{%b}" % b",".join(b"%b:%b" % (ruby_json.dumps(name), bytes(value)) for name, value in fields.items())


def write_member(fields: Mapping[str, Raw | bytes]) -> bytes:
    """The text of a job for a sorted set: as Ruby would write it, whoever wrote its fields.

    Ruby finds a job that it is to reschedule by writing it anew; one that it would write in another way, it would double.
    """
    kept = "args" if "body" in ours(cast("Fields", fields)) else ""  # a body that is no array comes back byte for byte
    return write({name: value if name == kept else ruby_json.retold(bytes(value)) for name, value in fields.items()})


def pushed(fields: Fields, now: float, timestamps: Timestamps) -> bytes:
    """The text of a job that goes to its queue now."""
    changed: dict[str, Raw | bytes] = {name: value for name, value in fields.items() if name != "at"}
    changed["enqueued_at"] = stamp(now, timestamps)
    return write(changed)


def put_off(raw: bytes) -> bytes:
    """The text of a job that is to wait as if it had never been taken: it keeps the time at which it was enqueued."""
    try:
        fields: dict[str, Raw | bytes] = dict(parse(raw))
        mine = ours(cast("Fields", fields))
        since = _message(cast("Fields", fields), raw).enqueued_at
    except (Malformed, ValueError, TypeError, ArithmeticError):
        return raw
    if since is None:
        return raw
    fields[OURS] = ruby_json.dumps(mine | {SINCE: since})
    return write_member(fields)


def renewed(fields: Fields, now: float, timestamps: Timestamps) -> bytes:
    """The text of a dead job that begins again, as if it had never failed."""
    changed: dict[str, Raw | bytes] = {
        name: value for name, value in fields.items() if name not in {*ERRORS, "retry_count", OURS}
    }
    kept = {name: value for name, value in ours(fields).items() if name in {"body", "headers"}}
    if kept:
        changed[OURS] = ruby_json.dumps(kept)
    changed["enqueued_at"] = stamp(now, timestamps)
    return write(changed)
