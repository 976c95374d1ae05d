"""Settling as one transaction: each outcome applied to the rows that are still held with their token."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from ...broker import Settlement
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Release, Retry
from .rows import Receipt, Rows
from .schema import Schema

_TRACEBACK = 8 * 1024  # characters kept of a traceback: its end, where it happened


class Settling:
    """The statements of all outcomes but ``Ack``, built once."""

    def __init__(self, schema: Schema) -> None:
        table, dead = schema.messages, schema.dead
        held = sa.and_(table.c.id == sa.bindparam("row"), table.c.token == sa.bindparam("held"))
        free = {"token": None, "owner": None, "reserved_at": None, "lease_until": None}
        due: Mapping[str, Any] = {"available_at": sa.bindparam("due")}
        fewer: Mapping[str, Any] = {"deliveries": sa.case((table.c.deliveries > 0, table.c.deliveries - 1), else_=0)}
        again: Mapping[str, Any] = {
            "deliveries": 0,
            "attempts": sa.bindparam("attempt"),
            "enqueued_at": sa.bindparam("now"),
        }
        self.retry = table.update().where(held).values(**free, **due, **again)
        self.release = table.update().where(held).values(**free, **fewer)
        self.release_later = table.update().where(held).values(**free, **fewer, **due)
        self.leave = table.update().where(table.c.owner == sa.bindparam("leaver"), table.c.token.is_not(None))
        self.leave = self.leave.values(**free, **fewer)
        self.raw = sa.select(table).where(held)
        copied = ("queue", "grp", "type", "key", "headers", "payload", "deliveries", "enqueued_at")
        added = ("attempts", "reason", "error", "traceback", "meta", "owner", "died_at", "raw")
        letter = sa.select(
            sa.func.coalesce(table.c.mid, table.c.id),
            *(table.c[name] for name in copied),
            *(sa.bindparam(f"dead_{name}", type_=dead.c[name].type) for name in added),
        )
        self.bury = dead.insert().from_select(["mid", *copied, *added], letter.where(held))


@lru_cache(maxsize=16)
def settling(schema: Schema) -> Settling:
    return Settling(schema)


def settle(
    conn: sa.Connection,
    schema: Schema,
    rows: Rows,
    settlements: Sequence[Settlement[Receipt]],
    *,
    owner: str,
    now: float,
) -> list[Delivery[Receipt]]:
    """Apply a batch; return the deliveries that were no longer held."""
    statements = settling(schema)
    acks: defaultdict[int, list[Delivery[Receipt]]] = defaultdict(list)
    lost: list[Delivery[Receipt]] = []
    for item in settlements:
        delivery = item.delivery
        if isinstance(item.outcome, Ack):
            acks[delivery.receipt[1]].append(delivery)
        elif not _settle(conn, statements, rows, item, owner, now):
            lost.append(delivery)
    for token, deliveries in acks.items():
        gone = rows.delete(conn, token, [d.receipt[0] for d in deliveries])
        for delivery in deliveries:
            if delivery.receipt[0] in gone:
                gone.discard(delivery.receipt[0])  # the same one again is lost
            else:
                lost.append(delivery)
    return lost


def _settle(
    conn: sa.Connection, statements: Settling, rows: Rows, item: Settlement[Receipt], owner: str, now: float
) -> bool:
    delivery, outcome = item.delivery, item.outcome
    row, token = delivery.receipt
    held: dict[str, Any] = {"row": row, "held": token}
    match outcome:
        case Retry(delay=delay, counts=counts):
            attempt = delivery.attempt + 1 if counts else delivery.message.attempt
            held |= {"due": now + (delay or 0.0), "attempt": attempt, "now": now}
            statement: sa.Update | sa.Insert = statements.retry
        case DeadLetter():
            raw = None if delivery.defect is None else _raw(conn, statements, held)
            if conn.execute(statements.bury, held | _letter(delivery, outcome, owner, now, raw)).rowcount != 1:
                return False
            return bool(rows.delete(conn, token, [row]))
        case Release(delay=delay) if delay > 0:
            held |= {"due": now + delay}
            statement = statements.release_later
        case _:
            statement = statements.release
    return conn.execute(statement, held).rowcount == 1


def _letter(
    delivery: Delivery[Receipt], outcome: DeadLetter, owner: str, now: float, raw: bytes | None
) -> dict[str, Any]:
    error = outcome.error
    return {
        "dead_attempts": delivery.attempt,
        "dead_reason": storable(outcome.reason),
        "dead_error": None if error is None else storable(f"{type(error).__name__}: {error}"),
        "dead_traceback": None if error is None else storable("".join(traceback.format_exception(error)))[-_TRACEBACK:],
        "dead_meta": None if outcome.meta is UNSET else _meta(outcome.meta),
        "dead_owner": owner,
        "dead_died_at": now,
        "dead_raw": raw,
    }


def _meta(meta: Any) -> str:
    """As JSON. What is none is kept as its text: a dead letter is no place to fail."""
    try:
        return msgspec.json.encode(meta).decode()
    except Exception:  # noqa: BLE001 -- whatever the user's object does
        return msgspec.json.encode(storable(repr(meta))).decode()


def storable(text: str) -> str:
    """Text that a database takes: half surrogate pairs are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _raw(conn: sa.Connection, statements: Settling, held: dict[str, Any]) -> bytes | None:
    """The whole row as JSON, the payload in base64."""
    found = conn.execute(statements.raw, held).mappings().first()
    return None if found is None else msgspec.json.encode(dict(found))
