"""The job as a dict, as Sidekiq stores it: for whoever looks at more of it than its arguments.

Where the broker keeps the job's own text, that is read; elsewhere the same dict is made of what the engine knows.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ..brokers.sidekiq import ruby_json
from ..context import Context
from ..errors import DecodeError, EncodeError
from .job_retry import Timestamps, stamp
from .payload import Payload

_list = msgspec.json.Decoder(list[Any])


class ArgsCodec:
    """The arguments of a job, a JSON array, as the body of a message."""

    def encode(self, payload: list[Any]) -> bytes:
        try:
            return ruby_json.dumps(payload)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(f"these arguments are no JSON: {error}") from error

    def decode(self, body: bytes) -> list[Any]:
        try:
            return _list.decode(body)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the arguments of a job are a JSON array: {error}") from error


def payload_of(args: list[Any], context: Context, timestamps: Timestamps) -> Payload:
    """The payload of the job that ``context`` is of."""
    raw: Any = getattr(context.headers, "raw", None)
    if isinstance(raw, bytes):
        return cast("Payload", ruby_json.loads(raw))
    payload: Payload = {"retry": True, "queue": context.stream, **context.headers, "args": [*args]}
    payload["class"] = context.type
    payload.setdefault("jid", jid_of(context))
    if context.enqueued_at is not None:
        payload.setdefault("created_at", stamp(context.enqueued_at, timestamps))
        payload["enqueued_at"] = stamp(context.enqueued_at, timestamps)
    if context.attempt:
        payload["retry_count"] = context.attempt - 1
        if "created_at" in payload:  # nothing there says when it first failed: not before this
            payload["failed_at"] = payload["created_at"]
    return payload


def jid_of(context: Context) -> str:
    """The job's id: it stays the same where a broker gives a message a new one for each try."""
    jid: Any = context.headers.get("jid") if context.headers else None
    return jid if isinstance(jid, str) and jid else context.id


def display_class(payload: Payload) -> str:
    """The class by which people know the job: what an adapter has wrapped, not the adapter."""
    return str(payload.get("wrapped") or payload["class"])
