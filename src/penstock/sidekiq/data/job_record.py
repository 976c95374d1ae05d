"""A job as it lies in a queue or a set: its text, and what can be read in it.

What is no job can be looked at too: its ``item`` is empty and its text is its only argument.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, cast

from ...brokers.sidekiq import keys, ruby_json
from .data import Data, Payload

WRAPPERS: Final = ("Sidekiq::ActiveJob::Wrapper", "ActiveJob::QueueAdapters::SidekiqAdapter::JobWrapper")
MAILERS: Final = ("ActionMailer::DeliveryJob", "ActionMailer::MailDeliveryJob")
ENCRYPTED: Final = "[encrypted data]"
_GLOBAL_ID: Final = "_aj_globalid"
_MILLISECONDS: Final = 1e11  # an integer from here on is milliseconds; in seconds it would be the year 5138


class JobRecord:
    """One job. ``value``: its text, byte for byte; ``item``: what it says; ``queue``: where it is, or belongs."""

    def __init__(self, data: Data, value: bytes | str | Mapping[str, Any], queue: str | None = None) -> None:
        self._data = data
        if isinstance(value, Mapping):
            self.value, self.item = ruby_json.dumps(dict(value)), dict(value)
        else:
            self.value = value.encode() if isinstance(value, str) else value
            self.item = _parsed(self.value)
        self.queue: str | None = queue or self.item.get("queue")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.display_class} jid={self.jid} queue={self.queue}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return (self.value, self.queue)

    def __getitem__(self, name: str) -> Any:
        """A field, or ``None``."""
        return self.item.get(name)

    @property
    def valid(self) -> bool:
        """Whether this is a job at all."""
        return bool(self.item)

    @property
    def klass(self) -> str | None:
        """The class that runs it."""
        return self.item.get("class")

    @property
    def jid(self) -> str | None:
        return self.item.get("jid")

    @property
    def bid(self) -> str | None:
        """The batch that it belongs to."""
        return self.item.get("bid")

    @property
    def tags(self) -> list[str]:
        return self.item.get("tags") or []

    @cached_property
    def args(self) -> list[Any]:
        """The arguments. Of what is no job: its text."""
        if not self.item:
            return [self.value.decode("utf-8", "replace")]
        return _items(self.item.get("args"))

    @cached_property
    def display_class(self) -> str | None:
        """The class for people: that of an ActiveJob instead of the wrapper's, the mailer and its method."""
        if shown := self.item.get("display_class"):
            return str(shown)
        if self.klass not in WRAPPERS:
            return self.klass
        wrapped = self._wrapped
        if wrapped in MAILERS:
            return "#".join(str(part) for part in self._job_arguments[:2])
        return wrapped

    @cached_property
    def display_args(self) -> list[Any]:
        """The arguments for people: those of an ActiveJob unwrapped, what is encrypted left out."""
        if self.klass not in WRAPPERS:
            return [*self.args[:-1], ENCRYPTED] if self.item.get("encrypt") and self.args else self.args
        if not self.item.get("wrapped"):
            return []
        args: list[Any] = _unwrapped(self._job_arguments)
        if self._wrapped == MAILERS[0]:  # without the mailer, its method and how it is delivered
            return args[3:]
        if self._wrapped == MAILERS[1]:
            mail = _fields(args[3] if len(args) > 3 else None)
            return [mail.get("params"), mail.get("args")]
        return args

    @property
    def created_at(self) -> datetime | None:
        return _moment(self.item.get("created_at"))

    @property
    def enqueued_at(self) -> datetime | None:
        """When it was put into its queue last."""
        return _moment(self.item.get("enqueued_at"))

    @property
    def failed_at(self) -> datetime | None:
        """When it failed first."""
        return _moment(self.item.get("failed_at"))

    @property
    def retried_at(self) -> datetime | None:
        """When it failed last, but for the first time."""
        return _moment(self.item.get("retried_at"))

    @cached_property
    def error_backtrace(self) -> list[str] | None:
        """The lines of its last backtrace, if they were kept and can be read."""
        return _lines(self.item.get("error_backtrace"))

    @property
    def latency(self) -> float:
        """Seconds since it was enqueued, or created; 0 if it does not say."""
        return latency(self.item, self._data.clock.time())

    async def delete(self) -> bool:
        """Remove it from its queue; whether it was still there."""
        return bool(await self._data.client.call("LREM", keys.queue(self.queue or ""), 1, self.value))

    @property
    def _wrapped(self) -> str | None:
        job: Any = self.item.get("wrapped") or (self.args[0] if self.args else None)
        if isinstance(job, dict):
            job = cast("Payload", job).get("job_class")
        return None if job is None else str(job)

    @property
    def _job_arguments(self) -> list[Any]:
        """The arguments in the description that ActiveJob makes of a job."""
        first: Any = self.args[0] if self.args else None
        return _items(_fields(first).get("arguments"))


def latency(item: Mapping[str, Any], now: float) -> float:
    """Seconds since a job was enqueued, or created; 0 if it says neither."""
    value = item.get("enqueued_at")
    at = seconds(item.get("created_at") if value is None else value)
    return 0.0 if at is None else now - at


def seconds(value: Any) -> float | None:
    """A time as any release of Sidekiq writes it, in seconds since the epoch; ``None`` for what is no time."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return None
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value / 1000 if isinstance(value, int) and value >= _MILLISECONDS else float(value)


def _moment(value: Any) -> datetime | None:
    at = seconds(value)
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _parsed(text: bytes) -> Payload:
    try:
        item: Any = json.loads(text.decode())
    except (ValueError, RecursionError):
        return {}
    return _fields(item)


def _unwrapped(value: Any) -> Any:
    """An argument without what ActiveJob adds."""
    if isinstance(value, list):
        return [_unwrapped(each) for each in _items(value)]
    if not isinstance(value, dict):
        return value
    fields = cast("Payload", value)
    if fields.keys() == {_GLOBAL_ID}:
        return fields[_GLOBAL_ID]
    return {name: _unwrapped(each) for name, each in fields.items() if not name.startswith("_aj_")}


def _lines(kept: Any) -> list[str] | None:
    """A backtrace: base64 of compressed JSON, with or without line breaks; before Sidekiq 6.0.1 just lines."""
    if isinstance(kept, str):
        try:
            kept = json.loads(zlib.decompress(base64.b64decode(kept)))
        except (ValueError, zlib.error):
            return None
    return [str(line) for line in _items(kept)] if isinstance(kept, list) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType] JSON has no types


def _fields(value: Any) -> Payload:
    return cast("Payload", value) if isinstance(value, dict) else {}
