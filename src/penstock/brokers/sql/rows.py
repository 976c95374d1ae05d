"""Rows of ``messages`` as they go in and come out, and the deliveries that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeAlias, cast

import msgspec
import sqlalchemy as sa

from ...message import EMPTY, Delivery, Message

Receipt: TypeAlias = tuple[int, int]  # row id, fencing token
Row: TypeAlias = tuple[Any, ...]

# What a publisher says of a message; ``delay`` becomes ``available_at`` by the clock that counts here.
GIVEN = ("queue", "grp", "type", "key", "headers", "payload", "attempts", "delay", "enqueued_at", "mid")
INSERTED = (*GIVEN[:7], "available_at", "created_at", *GIVEN[8:])
TAKEN = ("available_at", "id", "coalesce(mid, id)", "type", "{key}", "headers", "payload", "attempts", "deliveries")

_headers = msgspec.json.Decoder(dict[str, Any])
_order = itemgetter(0, 1)


class Lease(msgspec.Struct, frozen=True):
    """What a claim writes into its rows. ``token`` is new for each, ``seconds`` how long it is good for."""

    token: int
    owner: str
    seconds: float


def plain(result: sa.CursorResult[Any]) -> list[Row]:
    """The client's own tuples: making SQLAlchemy's rows of them takes as long as reading them."""
    cursor = cast("Any", result.cursor)
    found: list[Row] = cursor.fetchall()
    result.close()
    return found


def deliveries(queue: str, group: str, token: int, found: Sequence[Row]) -> list[Delivery[Receipt]]:
    """What was taken, in the order of the queue, which no ``RETURNING`` promises."""
    return [_delivery(queue, group, row, token) for row in sorted(found, key=_order)]


def _delivery(queue: str, group: str, row: Row, token: int) -> Delivery[Receipt]:
    _, number, mid, type_, key, text, body, attempt, count, enqueued_at = row
    headers, defect = (EMPTY, None) if text is None else read_headers(text)
    message = Message(
        id=str(mid), type=type_, body=body, key=key, attempt=attempt, enqueued_at=enqueued_at, headers=headers
    )
    return Delivery(message=message, source=queue, group=group, receipt=(number, token), count=count, defect=defect)


def read_headers(text: Any) -> tuple[Any, str | None]:
    """Headers and what is wrong with them. Somebody else may write into our tables."""
    try:
        return _headers.decode(text), None
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as wrong:
        return EMPTY, f"the column headers holds no JSON object: {wrong}"
