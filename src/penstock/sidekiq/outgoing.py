"""A payload as what a broker takes: ``queue``, ``class`` and ``args`` have their places, all else is headers."""

from __future__ import annotations

from typing import Any

from ..broker import Broker, Outgoing
from ..errors import PayloadTooLarge, UnsupportedFeature
from ..message import Message
from .payload import Payload


def outgoing_of(payload: Payload, body: bytes, now: float, broker: Broker[Any]) -> Outgoing:
    """``body`` is the text of ``args``. Raises ``PayloadTooLarge``, ``UnsupportedFeature``."""
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
    message = Message(type=name, body=body, enqueued_at=now, headers=headers)
    return Outgoing(destination=queue, message=message, delay=delay)
