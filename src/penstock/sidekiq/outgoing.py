"""A payload as what a broker takes: ``queue``, ``class`` and ``args`` have their places, all else is headers."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from ..broker import Broker, Outgoing
from ..brokers.sidekiq import SidekiqBroker
from ..brokers.sidekiq.ruby_json import dumps, encode_plain
from ..brokers.sidekiq.wire import Written
from ..errors import ArgumentError, PayloadTooLarge, UnsupportedFeature
from ..message import Message
from .payload import Payload

_PLAIN: Final = frozenset({str, int, bool, list})  # the list is that of the arguments, unless there are tags


def outgoing_of(payload: Payload, body: bytes, now: float, broker: Broker[Any]) -> Outgoing:
    """``body`` is the text of ``args``. Raises ``ArgumentError``, ``PayloadTooLarge``, ``UnsupportedFeature``."""
    headers = payload.copy()
    queue, name = headers.pop("queue"), headers.pop("class")
    del headers["args"]
    if headers.get("retry") is True:  # what is true unless somebody says otherwise
        del headers["retry"]
    if len(body) > broker.capabilities.max_body:
        raise PayloadTooLarge(
            f"the arguments of {name} have {len(body)} bytes, {broker.url} takes {broker.capabilities.max_body}; send a"
            " reference to them"
        )
    delay = 0.0
    if "at" in headers and (delay := max(headers["at"] - now, 0.0)) > broker.capabilities.max_delay:
        raise UnsupportedFeature(
            f"{broker.url} delays by at most {broker.capabilities.max_delay} seconds, {name} is to wait for {delay:.0f};"
            " push it later, or to another broker"
        )
    if isinstance(broker, SidekiqBroker):
        try:
            headers = Written(headers, _text(payload, body))
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(f"a field of the job {name} cannot be written as JSON: {error}") from error
    message = Message(type=name, body=body, enqueued_at=now, headers=headers)
    return Outgoing(destination=queue, message=message, delay=delay)


def _text(payload: Payload, body: bytes) -> bytes:
    """The payload as Ruby would write it, its fields in their order."""
    if _PLAIN.issuperset(map(type, payload.values())) and "at" not in payload and "enqueued_at" not in payload:
        return encode_plain({**payload, "args": Raw(body)})
    fields = {name: Raw(body) if name == "args" else Raw(dumps(value)) for name, value in payload.items()}
    for name in ("at", "enqueued_at"):
        fields.pop(name, None)
    return encode_plain(fields)
