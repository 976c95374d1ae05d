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
from ...clients.sql_schema import Schema
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Release, Retry
from .dialect import Dialect
from .rows import Receipt

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
        mine = (table.c[name] == sa.bindparam(f"the_{name}") for name in ("queue", "grp", "owner"))
        self.leave = table.update().where(*mine, table.c.token.is_not(None))
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
    conn: sa.Connection, dialect: Dialect, settlements: Sequence[Settlement[Receipt]], *, owner: str
) -> list[Delivery[Receipt]]:
    """Apply a batch; return the deliveries that were no longer held."""
    acks = [item.delivery for item in settlements if isinstance(item.outcome, Ack)]
    gone = dialect.delete(conn, [delivery.receipt for delivery in acks]) if acks else set[int]()
    lost: list[Delivery[Receipt]] = []
    for delivery in acks:
        if delivery.receipt[0] in gone:
            gone.discard(delivery.receipt[0])  # the same one again is lost
        else:
            lost.append(delivery)
    if len(acks) < len(settlements):
        lost += _settle(conn, dialect, [i for i in settlements if not isinstance(i.outcome, Ack)], owner)
    return lost


def _settle(
    conn: sa.Connection, dialect: Dialect, settlements: Sequence[Settlement[Receipt]], owner: str
) -> list[Delivery[Receipt]]:
    """All that is no ack: what is still held is locked first, then written one statement for each kind of outcome."""
    statements, now = settling(dialect.schema), dialect.now(conn)
    held = dialect.held(conn, [item.delivery.receipt for item in settlements])
    lost: list[Delivery[Receipt]] = []
    kinds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    dead: list[Receipt] = []
    for item in settlements:
        delivery, outcome = item.delivery, item.outcome
        if delivery.receipt not in held:
            lost.append(delivery)
            continue
        held.discard(delivery.receipt)  # the same one again is lost
        row: dict[str, Any] = dict(zip(("row", "held"), delivery.receipt, strict=True))
        match outcome:
            case Retry(delay=delay, counts=counts):
                attempt = delivery.attempt + 1 if counts else delivery.message.attempt
                kinds["retry"].append(row | {"due": now + (delay or 0.0), "attempt": attempt, "now": now})
            case DeadLetter():
                raw = None if delivery.defect is None else _raw(conn, statements, row)
                kinds["bury"].append(row | _letter(delivery, outcome, owner, now, raw))
                dead.append(delivery.receipt)
            case Release(delay=delay) if delay > 0:
                kinds["release_later"].append(row | {"due": now + delay})
            case _:
                kinds["release"].append(row)
    for kind, rows in kinds.items():
        conn.execute(getattr(statements, kind), rows)
    if dead:
        dialect.delete(conn, dead)
    return lost


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
    """Text that every database takes: half surrogate pairs are escaped, and the NUL, which PostgreSQL refuses, is replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "backslashreplace").decode()


def _raw(conn: sa.Connection, statements: Settling, held: dict[str, Any]) -> bytes | None:
    """The whole row as JSON, the payload in base64."""
    found = conn.execute(statements.raw, held).mappings().first()
    return None if found is None else msgspec.json.encode(dict(found))
