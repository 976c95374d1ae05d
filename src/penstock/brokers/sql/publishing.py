"""Publishing as one transaction: a row for each group of the destination, and keys that are published once.

A message that the database refuses hurts no neighbour: each message's fate is told, as an id or as an error.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc

from ...broker import Outgoing, Subscription
from ...checks import sole_group
from ...clients.sql_failures import is_trouble
from ...errors import EncodeError, PayloadTooLarge
from .dialect import Dialect
from .rows import Row

Fate: TypeAlias = str | Exception
Key: TypeAlias = tuple[str, str, str]

_KEYS = 200  # of one statement
_SWEEP = 100  # expired keys that one publish with a key sweeps away


class Refused(Exception):
    """The database does not take some message of a batch; publishing it again carefully tells which."""


def publish(
    conn: sa.Connection,
    dialect: Dialect,
    messages: Sequence[Outgoing],
    *,
    max_body: int,
    careful: bool = True,
    again: set[int] | None = None,
    groups: Mapping[str, list[str]] | None = None,
) -> list[Fate]:
    """Insert a batch; tell each message's fate.

    ``again``: takes the places of those that were published before.

    ``careful``: under a savepoint, so that a message that is refused spares its neighbours and the transaction;
    without it the whole transaction fails with ``Refused``. ``groups``: those of each destination, which is held
    already; by default this transaction holds it and looks.
    """
    queues = destinations(dialect, messages)
    if groups is None:
        dialect.hold(conn, queues)
        groups = {queue: dialect.groups(conn, queue) for queue in queues}
    groups = {queue: groups[queue] or _backlog(conn, dialect, queue) for queue in queues}
    keys = {n: key for n, item in enumerate(messages) if (key := _once_key(dialect, item)) is not None}
    claim = -secrets.randbits(62) - 1
    known = _reserve(conn, dialect, keys, messages, claim) if keys else {}
    fates: list[Fate] = [""] * len(messages)
    batch: list[tuple[int, Row]] = []
    twins: dict[int, int] = {}  # place of a duplicate inside the batch → place of the first
    first: dict[Key, int] = {}
    for n, item in enumerate(messages):
        key = keys.get(n)
        if key is not None and key in known:
            fates[n] = str(known[key])
            _note(again, n)
        elif key is not None and first.setdefault(key, n) != n:
            twins[n] = first[key]
            _note(again, n)
        else:
            try:
                batch.append((n, _row(dialect, item, groups.get(item.destination, [""])[0], max_body)))
            except Exception as wrong:  # noqa: BLE001 -- whatever is wrong with one must not hurt the others
                fates[n] = wrong
    _insert(conn, dialect, batch, groups, fates, careful=careful)
    if first:
        _remember(conn, dialect, first, fates)
    for twin, n in twins.items():
        fates[twin] = fates[n]
    if batch:
        dialect.announce(conn, queues)
    return fates


def _note(again: set[int] | None, place: int) -> None:
    if again is not None:
        again.add(place)


def _once_key(dialect: Dialect, item: Outgoing) -> Key | None:
    if item.once is None or item.message.key is None:
        return None
    key = (item.destination, item.message.type, item.message.key)
    return key if all(_writable(dialect, text) for text in key) else None  # its fate is told when it is inserted


def destinations(dialect: Dialect, messages: Sequence[Outgoing]) -> list[str]:
    """The queues of a batch, but for names that cannot be: their messages' fate is told when they are inserted."""
    return sorted(queue for queue in {item.destination for item in messages} if _writable(dialect, queue))


def _writable(dialect: Dialect, text: str) -> bool:
    """Whether the database can hold it: half a surrogate pair it cannot."""
    if dialect.longest_name is not None and (len(text) > dialect.longest_name or "\0" in text):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row(dialect: Dialect, item: Outgoing, group: str, max_body: int) -> Row:
    message = item.message
    if len(message.body) > max_body:
        raise PayloadTooLarge(f"the body has {len(message.body)} bytes; this broker takes {max_body}")
    if (most := dialect.longest_name) is not None:
        for name, text in (("queue", item.destination), ("type", message.type), ("key", message.key or "")):
            if len(text) > most:
                raise EncodeError(f"the {name} has {len(text)} characters; this broker takes {most}")
    headers = None
    if message.headers:
        try:
            headers = msgspec.json.encode(message.headers).decode()
        except Exception as wrong:
            raise EncodeError(f"the headers cannot be written as JSON: {wrong}") from wrong
    delay = max(float(item.delay), 0.0)
    head = (item.destination, group, message.type, message.key, headers, message.body, message.attempt)
    return (*head, delay, message.enqueued_at, None)


def _insert(
    conn: sa.Connection,
    dialect: Dialect,
    batch: Sequence[tuple[int, Row]],
    groups: Mapping[str, list[str]],
    fates: list[Fate],
    *,
    careful: bool,
) -> None:
    """Insert a row of each message for the first group, then its copies for the others."""
    if not batch:
        return
    try:
        with conn.begin_nested() if careful else nullcontext():
            ids = dialect.insert_by_any_driver(conn, [row for _, row in batch])
    except Exception as wrong:
        if _is_trouble(wrong):
            raise
        if not careful:
            raise Refused from wrong
        if len(batch) == 1:
            fates[batch[0][0]] = EncodeError(f"the message cannot be stored: {_text(wrong)}")
            return
        for single in batch:
            _insert(conn, dialect, [single], groups, fates, careful=True)
        return
    for (n, _), number in zip(batch, ids, strict=True):
        fates[n] = str(number)
    copies = _copies([row for _, row in batch], ids, groups)
    if copies:
        dialect.insert_by_any_driver(conn, copies)


def _copies(rows: Sequence[Row], ids: Sequence[int], groups: Mapping[str, list[str]]) -> list[Row]:
    """The rows of every group but the first: they name the first one's as the message's id."""
    return [
        (row[0], group, *row[2:9], number)
        for row, number in zip(rows, ids, strict=True)
        for group in groups.get(row[0], [""])[1:]
    ]


def _is_trouble(error: Exception) -> bool:
    """Whether the database is in trouble, not a message."""
    sqlite = isinstance(error, exc.OperationalError) and getattr(error.orig, "sqlite_errorcode", None) is not None
    return sqlite or is_trouble(error)


def _text(error: Exception) -> str:
    return str(error.orig if isinstance(error, exc.DBAPIError) else error)


def _backlog(conn: sa.Connection, dialect: Dialect, queue: str) -> list[str]:
    """Make the group that keeps messages of a queue that has none yet."""
    conn.execute(dialect.sql.add(dialect.schema.streams), {"queue": queue, "grp": ""})
    return [""]


def join(conn: sa.Connection, dialect: Dialect, subscription: Subscription, queue: str, *, alone: bool) -> None:
    """Make a group, unless it is there. The first one takes the backlog over, or drops what is due of it.

    A later one gets its own copy of what other groups have before them, unless it begins with the next message; with
    ``alone`` there can be none. Raises ``ConfigurationError`` then.
    """
    streams, messages = dialect.schema.streams, dialect.schema.messages
    group, keep = subscription.group, subscription.start == "first"
    known = set(dialect.groups(conn, queue))
    if group not in known:
        dialect.seize(conn, queue)
        known = set(dialect.groups(conn, queue))
    if alone:
        sole_group(queue, group, known - {"", group})
    if group in known:
        return
    conn.execute(dialect.sql.add(streams), {"queue": queue, "grp": group})
    if known <= {""}:
        conn.execute(streams.delete().where(streams.c.queue == queue, streams.c.grp == ""))
        backlog = sa.and_(messages.c.queue == queue, messages.c.grp == "", messages.c.token.is_(None))
        if not keep:
            conn.execute(messages.delete().where(backlog, messages.c.available_at <= dialect.time()))
        conn.execute(messages.update().where(backlog).values(grp=group))
    elif keep:
        _copy_for(conn, dialect, queue, group)


def _copy_for(conn: sa.Connection, dialect: Dialect, queue: str, group: str) -> None:
    """A row of its own for each message that is due; leases and counts are the other groups'."""
    table = dialect.schema.messages
    mid = sa.func.coalesce(table.c.mid, table.c.id)
    ours = ("queue", "type", "key", "headers", "payload", "attempts", "available_at", "created_at", "enqueued_at")
    due = sa.and_(table.c.queue == queue, table.c.available_at <= dialect.time())
    kept = sa.select(sa.func.min(table.c.id).label("id")).where(due).group_by(mid).subquery()
    rows = sa.select(mid, sa.literal(group), *(table.c[name] for name in ours)).join(kept, kept.c.id == table.c.id)
    conn.execute(table.insert().from_select(["mid", "grp", *ours], rows.order_by(table.c.id)))


def _reserve(
    conn: sa.Connection, dialect: Dialect, keys: dict[int, Key], messages: Sequence[Outgoing], claim: int
) -> dict[Key, int]:
    """Put our mark on the keys that are free; the ids behind those that were published and are still remembered.

    A rival that is at the same key waits at its insert until this transaction has ended.
    """
    table, known, now = dialect.schema.once, dict[Key, int](), dialect.now(conn)
    until = {key: now + (messages[n].once or 0.0) for n, key in reversed(keys.items())}
    wanted = sorted(until)  # in one order, so that no two wait for each other
    _sweep(conn, dialect, now)
    for start in range(0, len(wanted), _KEYS):
        some = wanted[start : start + _KEYS]
        these = sa.tuple_(table.c.queue, table.c.type, table.c.key).in_(some)
        conn.execute(table.delete().where(table.c.expires_at <= now, these))
        rows = [dict(zip(("queue", "type", "key"), key, strict=True)) for key in some]
        conn.execute(
            dialect.sql.add(table),
            [row | {"mid": claim, "expires_at": until[key]} for row, key in zip(rows, some, strict=True)],
        )
        look = sa.select(table.c.queue, table.c.type, table.c.key, table.c.mid).where(these)
        if dialect.family == "mysql":  # somebody's REPEATABLE READ would not see a rival's key; a lock does
            look = look.with_for_update(read=True)
        known |= {(row.queue, row.type, row.key): row.mid for row in conn.execute(look) if row.mid != claim}
    return known


def _sweep(conn: sa.Connection, dialect: Dialect, now: float) -> None:
    table = dialect.schema.once
    columns = (table.c.queue, table.c.type, table.c.key)
    stale = sa.select(*columns).where(table.c.expires_at <= now).limit(_SWEEP).with_for_update(skip_locked=True)
    if found := [tuple(row) for row in conn.execute(stale)]:
        conn.execute(table.delete().where(sa.tuple_(*columns).in_(found)))


def _remember(conn: sa.Connection, dialect: Dialect, first: dict[Key, int], fates: Sequence[Fate]) -> None:
    """Write the ids behind our marks, and take those back whose message was refused."""
    table = dialect.schema.once
    own = sa.and_(
        table.c.queue == sa.bindparam("q"), table.c.type == sa.bindparam("t"), table.c.key == sa.bindparam("k")
    )
    done = [
        dict(zip("qtk", key, strict=True)) | {"m": int(fate)}
        for key, n in first.items()
        if isinstance(fate := fates[n], str)
    ]
    failed = [dict(zip("qtk", key, strict=True)) for key, n in first.items() if not isinstance(fates[n], str)]
    if done:
        conn.execute(table.update().where(own).values(mid=sa.bindparam("m")), done)
    if failed:
        conn.execute(table.delete().where(own), failed)
