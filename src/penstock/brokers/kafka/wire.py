"""Messages as Kafka records, and back.

The value is the body, the record's key the message's key, and the rest are headers, all of them text::

    id             name of the message: kept through retries, so that a duplicate can be told
    type           of the message; a record without it has the broker's ``default_type``
    attempt        executions that failed before; left out while 0
    enqueued_at    seconds since the epoch
    due            in the topics for delays: when it may be handed out, seconds since the epoch
    deliveries     in the same: how often owners died or lost the partition with it; left out while 0
    <any other>    the message's own headers; a value that is no text is JSON, and ``;json`` follows the name

So ``value`` alone is a message. Without ``id`` its name is ``partition-offset``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from ...message import EMPTY, Message

Headers: TypeAlias = list[tuple[str, bytes]]

OURS = frozenset({"id", "type", "attempt", "enqueued_at", "due", "deliveries"})
JSON = ";json"

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Unreadable(Exception):
    """What is wrong with a record."""


class Extra(msgspec.Struct, frozen=True):
    """What a record of a delaying topic says beside the message."""

    due: float = 0.0
    deliveries: int = 0


NOTHING = Extra()


def headers_of(message: Message, now: float) -> Headers:
    """The headers of a message. Raises what msgspec raises for values that are no JSON."""
    at = now if message.enqueued_at is None else message.enqueued_at
    headers = [("id", message.id.encode()), ("type", message.type.encode()), ("enqueued_at", b"%.3f" % at)]
    if message.attempt:
        headers.append(("attempt", b"%d" % message.attempt))
    for name, value in message.headers.items():
        if isinstance(value, str) and name not in OURS and not name.endswith(JSON):
            headers.append((name, value.encode()))
        else:
            headers.append((f"{name}{JSON}", _encode(value)))
    return headers


def read(  # noqa: C901 - one branch for each header
    ident: str, key: bytes | None, value: bytes | None, headers: Headers, default_type: str
) -> tuple[Message, Extra]:
    """The message of a record. Raises ``Unreadable``."""
    if value is None:
        raise Unreadable("it has no value: it is a tombstone")
    attempt, at, extra = 0, None, NOTHING
    own: dict[str, Any] = {}
    type_ = default_type
    try:
        for name, content in headers:
            if name == "id":
                ident = content.decode()
            elif name == "type":
                type_ = content.decode()
            elif name == "enqueued_at":
                at = float(content)
            elif name == "attempt":
                attempt = int(content)
            elif name == "due":
                extra = Extra(float(content), extra.deliveries)
            elif name == "deliveries":
                extra = Extra(extra.due, int(content))
            else:
                _own(own, name, content)
        text = None if key is None else key.decode()
    except (ValueError, TypeError, AttributeError, msgspec.DecodeError, RecursionError) as wrong:
        raise Unreadable(f"its headers cannot be read: {wrong}") from None
    if attempt < 0 or extra.deliveries < 0:
        raise Unreadable(f"its attempt is not a whole number: {attempt}")
    message = Message(
        id=ident,
        type=type_,
        body=value,
        key=text,
        attempt=attempt,
        enqueued_at=at,
        headers=own or EMPTY,
    )
    return message, extra


def _own(own: dict[str, Any], name: str, content: bytes) -> None:
    if name.endswith(JSON):
        own[name.removesuffix(JSON)] = _decode(content)
    else:
        own[name] = content.decode()


def raw_of(key: bytes | None, headers: Headers) -> bytes:
    """What cannot be read, whole: for people, and in a dead letter."""
    return _encode({"key": key, "headers": headers})  # bytes become base64
