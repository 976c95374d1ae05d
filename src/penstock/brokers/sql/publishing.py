"""Publishing as one transaction: a row for each group of the destination, and keys that are published once.

A message that the database refuses hurts no neighbour: each message's fate is told, as an id or as an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.sqlite import insert as upsert

from ...broker import Outgoing, Subscription
from ...checks import sole_group
from ...errors import EncodeError, PayloadTooLarge
from .rows import Row, Rows
from .schema import Schema

Fate: TypeAlias = str | Exception
Key: TypeAlias = tuple[str, str, str]

_SWEEP = 100  # expired keys that one publish with a key sweeps away


def publish(
    conn: sa.Connection, schema: Schema, rows: Rows, messages: Sequence[Outgoing], *, now: float, max_body: int
) -> list[Fate]:
    """Insert a batch; tell each message's fate."""
    keys = {n: key for n, item in enumerate(messages) if (key := _once_key(item)) is not None}
    known = _known(conn, schema, set(keys.values()), now) if keys else {}
    groups = {queue: _groups(conn, schema, rows, queue) for queue in _destinations(messages)}
    fates: list[Fate] = [""] * len(messages)
    batch: list[tuple[int, list[Row]]] = []
    number = rows.allocate(conn)
    twins: dict[int, int] = {}  # place of a duplicate inside the batch → place of the first
    first: dict[Key, int] = {}
    for n, item in enumerate(messages):
        key = keys.get(n)
        if key is not None and key in known:
            fates[n] = known[key]
        elif key is not None and first.setdefault(key, n) != n:
            twins[n] = first[key]
        else:
            try:
                made = _rows(item, groups.get(item.destination, [""]), number, now, max_body)
            except Exception as wrong:  # noqa: BLE001 -- whatever is wrong with one must not hurt the others
                fates[n] = wrong
            else:
                fates[n], number = str(number), number + len(made)
                batch.append((n, made))
    _insert(conn, rows, batch, fates)
    _remember(conn, schema, [(key, n, messages[n].once or 0.0) for key, n in first.items()], fates, now)
    for twin, n in twins.items():
        fates[twin] = fates[n]
    return fates


def _once_key(item: Outgoing) -> Key | None:
    if item.once is None or item.message.key is None:
        return None
    key = (item.destination, item.message.type, item.message.key)
    return key if all(map(_writable, key)) else None  # its fate is told when it is inserted


def _destinations(messages: Sequence[Outgoing]) -> list[str]:
    return [queue for queue in {item.destination for item in messages} if _writable(queue)]


def _writable(text: str) -> bool:
    """Whether SQLite can hold it: half a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(item: Outgoing, groups: Sequence[str], number: int, now: float, max_body: int) -> list[Row]:
    message = item.message
    if len(message.body) > max_body:
        raise PayloadTooLarge(f"the body has {len(message.body)} bytes; this broker takes {max_body}")
    headers = None
    if message.headers:
        try:
            headers = msgspec.json.encode(message.headers).decode()
        except Exception as wrong:
            raise EncodeError(f"the headers cannot be written as JSON: {wrong}") from wrong
    due = now + item.delay if item.delay > 0 else now
    return [
        (
            number + place,
            item.destination,
            group,
            message.type,
            message.key,
            headers,
            message.body,
            message.attempt,
            due,
            now,
            message.enqueued_at,
            number if place else None,
        )
        for place, group in enumerate(groups)
    ]


def _insert(conn: sa.Connection, rows: Rows, batch: Sequence[tuple[int, list[Row]]], fates: list[Fate]) -> None:
    if len(batch) == 1:
        _insert_singly(conn, rows, batch, fates)
        return
    conn.exec_driver_sql("SAVEPOINT publishing")
    try:
        rows.insert(conn, [row for _, made in batch for row in made])
    except exc.OperationalError:
        raise  # the database is in trouble, not a message
    except Exception:  # noqa: BLE001 -- found out below, one by one
        conn.exec_driver_sql("ROLLBACK TO publishing")
        _insert_singly(conn, rows, batch, fates)
    conn.exec_driver_sql("RELEASE publishing")


def _insert_singly(conn: sa.Connection, rows: Rows, batch: Sequence[tuple[int, list[Row]]], fates: list[Fate]) -> None:
    for n, made in batch:
        try:
            # What SQLite does not take, such as half a surrogate pair, is in every row of the message: the first
            # statement fails, and a statement that fails leaves nothing behind.
            rows.insert(conn, made)
        except exc.OperationalError:
            raise
        except Exception as wrong:  # noqa: BLE001
            fates[n] = EncodeError(f"the message cannot be stored: {wrong}")


def _groups(conn: sa.Connection, schema: Schema, rows: Rows, queue: str) -> list[str]:
    """The groups that shall see a message; the backlog if there are none."""
    found = rows.groups(conn, queue)
    if not found:
        conn.execute(schema.streams.insert().values(queue=queue, grp=""))
        return [""]
    return found


def join(
    conn: sa.Connection, schema: Schema, rows: Rows, subscription: Subscription, *, alone: bool, now: float
) -> None:
    """Make a group, unless it is there. The first one takes the backlog over, or drops what is due of it.

    A later one gets its own copy of what other groups have before them, unless it begins with the next message; with
    ``alone`` there can be none. Raises ``ConfigurationError`` then.
    """
    streams, messages = schema.streams, schema.messages
    queue, group, keep = subscription.source, subscription.group, subscription.start == "first"
    known = set(rows.groups(conn, queue))
    if alone:
        sole_group(queue, group, known - {"", group})
    if group in known:
        return
    conn.execute(streams.insert().values(queue=queue, grp=group))
    if known <= {""}:
        conn.execute(streams.delete().where(streams.c.queue == queue, streams.c.grp == ""))
        backlog = sa.and_(messages.c.queue == queue, messages.c.grp == "", messages.c.token.is_(None))
        if not keep:
            conn.execute(messages.delete().where(backlog, messages.c.available_at <= now))
        conn.execute(messages.update().where(backlog).values(grp=group))
    elif keep:
        _copy_for(conn, schema, queue, group, now)


def _copy_for(conn: sa.Connection, schema: Schema, queue: str, group: str, now: float) -> None:
    """A row of its own for each message that is due; leases and counts are the other groups'."""
    table = schema.messages
    mid = sa.func.coalesce(table.c.mid, table.c.id)
    ours = ("queue", "type", "key", "headers", "payload", "attempts", "available_at", "created_at", "enqueued_at")
    kept = sa.select(sa.func.min(table.c.id)).where(table.c.queue == queue, table.c.available_at <= now).group_by(mid)
    rows = sa.select(mid, sa.literal(group), *(table.c[name] for name in ours)).where(table.c.id.in_(kept))
    conn.execute(table.insert().from_select(["mid", "grp", *ours], rows.order_by(table.c.id)))


def _known(conn: sa.Connection, schema: Schema, keys: set[Key], now: float) -> dict[Key, str]:
    """The ids behind keys that were published and are still remembered."""
    table = schema.once
    rowid = sa.literal_column("rowid", sa.Integer)
    stale = sa.select(rowid).select_from(table).where(table.c.expires_at <= now).limit(_SWEEP)
    conn.execute(table.delete().where(rowid.in_(stale)))
    query = sa.select(table.c.mid).where(
        table.c.queue == sa.bindparam("q"),
        table.c.type == sa.bindparam("t"),
        table.c.key == sa.bindparam("k"),
        table.c.expires_at > now,
    )
    found = {key: conn.scalar(query, dict(zip("qtk", key, strict=True))) for key in keys}
    return {key: str(mid) for key, mid in found.items() if mid is not None}


def _remember(
    conn: sa.Connection, schema: Schema, published: Sequence[tuple[Key, int, float]], fates: Sequence[Fate], now: float
) -> None:
    values = [
        {"queue": key[0], "type": key[1], "key": key[2], "mid": int(fate), "expires_at": now + seconds}
        for key, n, seconds in published
        if isinstance(fate := fates[n], str)
    ]
    if values:
        statement = upsert(schema.once)
        fresh = {"mid": statement.excluded.mid, "expires_at": statement.excluded.expires_at}
        conn.execute(statement.on_conflict_do_update(index_elements=["queue", "type", "key"], set_=fresh), values)
