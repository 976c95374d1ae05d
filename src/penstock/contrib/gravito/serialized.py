"""Jobs as @gravito/stream writes them: ``SerializedJob``, a JSON object with the job as JSON text in its ``data``.

What is about the queue may be said at the top, among the job's properties, or at both; not every driver of the original
writes the top (its SQL driver's ``pushMany`` writes ``data`` alone). So the top goes before, and the properties stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ...job_terms import PRIORITIES, Terms, priority_of

# Properties of every job of the original that are not its own data
METADATA: Final = frozenset(
    {
        *("id", "queueName", "connectionName", "delaySeconds", "attempts", "maxAttempts", "groupId", "priority"),
        *("retryAfterSeconds", "retryMultiplier"),
    }
)


class UnreadableError(ValueError):
    """It is no job of the original. The text says why."""


class Serialized(msgspec.Struct, frozen=True, kw_only=True):
    """One job. ``body``: its own properties as JSON, byte for byte what they were; times in seconds since the epoch.

    ``failures``: executions that failed before. ``after``: seconds after ``created_at`` before which it was not to run.
    """

    id: str | None
    name: str
    body: bytes
    queue: str | None
    priority: object
    terms: Terms
    failures: int
    created_at: float | None
    after: float | None


class _Inner(msgspec.Struct, rename={"cls": "class"}):
    properties: dict[str, msgspec.Raw]
    cls: str | None = None
    job: str | None = None


_top = msgspec.json.Decoder(dict[str, Any])
_inner = msgspec.json.Decoder(_Inner)


def serialized(raw: bytes) -> Serialized:
    """Read one. Raises ``UnreadableError``."""
    try:
        top = _top.decode(raw)
        bare = "data" not in top and "properties" in top
        text = raw if bare else top.get("data")
        if not isinstance(text, bytes | str):
            raise UnreadableError("it has no text 'data'")
        inner = _inner.decode(text)
        said = {name: msgspec.json.decode(inner.properties[name]) for name in METADATA & inner.properties.keys()}
        said |= {} if bare else {name: value for name, value in top.items() if value is not None}
        body = msgspec.json.encode({k: v for k, v in inner.properties.items() if k not in METADATA})
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"it is no SerializedJob: {error}") from error
    name = said.get("className") or inner.cls or inner.job
    if not isinstance(name, str):
        raise UnreadableError("it names no class")
    attempts, created = _number(said.get("attempts")), _number(said.get("createdAt"))
    return Serialized(
        id=_text(said.get("id")),
        name=name,
        body=body,
        queue=_text(said.get("queueName")),
        priority=said.get("priority"),
        terms=_terms(said),
        failures=max(int(attempts or 0) - 1, 0),  # the number of the coming execution; 0 and 1 are the first
        created_at=None if created is None else created / 1000,
        after=_number(said.get("delaySeconds")),
    )


def named(priority: object) -> str:
    """A priority of the original as one of ours. Names that the original itself never read are the default."""
    if isinstance(priority, str) and priority.lstrip("-").isdecimal():
        priority = int(priority)
    if isinstance(priority, float) and priority.is_integer():
        priority = int(priority)
    known = priority in PRIORITIES or (isinstance(priority, int) and not isinstance(priority, bool))
    return priority_of(priority) if known else "default"


def _terms(said: Mapping[str, Any]) -> Terms:
    most, wait, factor = (_number(said.get(name)) for name in ("maxAttempts", "retryAfterSeconds", "retryMultiplier"))
    return Terms(
        max_attempts=int(most) if most and most >= 1 else None,
        backoff=None if wait is None and factor is None else (1.0 if wait is None else wait, factor or 2.0),
        group=_text(said.get("groupId")),
    )


def _number(given: Any) -> float | None:
    return given if type(given) in {int, float} and 0 <= given < float("inf") else None


def _text(given: Any) -> str | None:
    return given if isinstance(given, str) and given else None
