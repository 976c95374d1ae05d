"""Looking at the tables and mending them: sizes, what waits, dead letters, living workers, what can be swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from ...broker import DeadMessage, GroupStats, Outgoing, Presence, StreamStats
from ...clients.sql_schema import Schema
from ...message import EMPTY, Message
from .dialect import Dialect
from .publishing import publish
from .rows import read_headers

_presence = msgspec.json.Decoder(Presence)


def sources(conn: sa.Connection, schema: Schema) -> list[str]:
    """Every queue that was ever written or read."""
    return sorted(conn.scalars(sa.select(schema.streams.c.queue).distinct()))


def stats(conn: sa.Connection, schema: Schema, queue: str, now: float) -> StreamStats:
    """Sizes of one queue, a message counted once however many groups have it before them."""
    table, dead, streams = schema.messages, schema.dead, schema.streams
    leased = table.c.token.is_not(None)
    ready = sa.and_(table.c.token.is_(None), table.c.available_at <= now)
    kept = sa.and_(table.c.queue == queue, sa.or_(leased, ready))
    delayed = sa.and_(table.c.queue == queue, table.c.token.is_(None), table.c.available_at > now)
    message = sa.distinct(sa.func.coalesce(table.c.mid, table.c.id))
    size, oldest = conn.execute(sa.select(sa.func.count(message), sa.func.min(table.c.enqueued_at)).where(kept)).one()
    count = sa.select(sa.func.count()).select_from(table)
    groups: list[GroupStats] = []
    for name in conn.scalars(sa.select(streams.c.grp).where(streams.c.queue == queue).order_by(streams.c.grp)):
        if name:
            own = sa.and_(table.c.queue == queue, table.c.grp == name)
            owners = sa.select(sa.func.count(sa.distinct(table.c.owner))).where(own, leased)
            groups.append(
                GroupStats(
                    name=name,
                    leased=conn.scalar(count.where(own, leased)) or 0,
                    lag=conn.scalar(count.where(own, ready)) or 0,
                    owners=conn.scalar(owners) or 0,
                )
            )
    return StreamStats(
        source=queue,
        size=size,
        delayed=conn.scalar(sa.select(sa.func.count(message)).where(delayed)) or 0,
        dead=conn.scalar(sa.select(sa.func.count()).select_from(dead).where(dead.c.queue == queue)) or 0,
        oldest_age=None if oldest is None else now - oldest,
        groups=tuple(groups),
    )


def peek(conn: sa.Connection, schema: Schema, queue: str, limit: int, now: float) -> list[Message]:
    """The oldest messages that wait or are leased, each once."""
    table, found = schema.messages, dict[int, Message]()
    names = sa.select(schema.streams.c.grp).where(schema.streams.c.queue == queue)
    for group in conn.scalars(names).all():
        own = sa.select(table).where(table.c.queue == queue, table.c.grp == group).limit(limit)
        ready = own.where(table.c.token.is_(None), table.c.available_at <= now)
        for query in (
            ready.order_by(table.c.available_at, table.c.id),
            own.where(table.c.token.is_not(None)).order_by(table.c.id),
        ):
            for row in conn.execute(query).mappings():
                number = row["mid"] or row["id"]
                found.setdefault(number, _message(row, number))
    return [found[number] for number in sorted(found)][:limit]


def dead(conn: sa.Connection, schema: Schema, queue: str, limit: int, after: str | None) -> list[DeadMessage]:
    """Dead letters, oldest first."""
    table = schema.dead
    query = sa.select(table).where(table.c.queue == queue).order_by(table.c.id).limit(limit)
    if after is not None:
        (behind,) = _numbers([after]) or (-1,)
        query = query.where(table.c.id > behind)
    return [_letter(row) for row in conn.execute(query).mappings()]


def requeue_dead(conn: sa.Connection, dialect: Dialect, queue: str, ids: Sequence[str], *, max_body: int) -> int:
    """Publish readable dead letters afresh and forget them."""
    table, now = dialect.schema.dead, dialect.now(conn)
    chosen = sa.and_(table.c.queue == queue, table.c.id == sa.bindparam("number"), table.c.raw.is_(None))
    count = 0
    for number in _numbers(ids):
        row = conn.execute(sa.select(table).where(chosen).with_for_update(), {"number": number}).mappings().first()
        if row is not None:
            again = replace(_letter(row).message, attempt=0, enqueued_at=now)
            item = Outgoing(destination=queue, message=again)
            (fate,) = publish(conn, dialect, [item], max_body=max_body)
            if isinstance(fate, Exception):
                raise fate
            count += conn.execute(table.delete().where(chosen), {"number": number}).rowcount
    return count


def purge_dead(conn: sa.Connection, schema: Schema, queue: str, ids: Sequence[str]) -> int:
    """Delete dead letters."""
    table = schema.dead
    chosen = table.delete().where(table.c.queue == queue, table.c.id == sa.bindparam("number"))
    return sum(conn.execute(chosen, {"number": number}).rowcount for number in _numbers(ids))


def purge(conn: sa.Connection, schema: Schema, queue: str) -> int:
    """Delete all that waits, now or later."""
    table = schema.messages
    waiting = sa.and_(table.c.queue == queue, table.c.token.is_(None))
    message = sa.distinct(sa.func.coalesce(table.c.mid, table.c.id))
    count = conn.scalar(sa.select(sa.func.count(message)).where(waiting)) or 0
    conn.execute(table.delete().where(waiting))
    return count


def sweep(conn: sa.Connection, schema: Schema, now: float) -> int:
    """Remove keys and workers whose time is over."""
    tables = (schema.once, schema.workers)
    return sum(conn.execute(table.delete().where(table.c.expires_at <= now)).rowcount for table in tables)


def beat(conn: sa.Connection, dialect: Dialect, presence: Presence, until: float) -> None:
    """Put a worker on the list."""
    conn.execute(
        dialect.sql.put(dialect.schema.workers, ("presence", "expires_at")),
        {"identity": presence.identity, "presence": msgspec.json.encode(presence), "expires_at": until},
    )


def leave(conn: sa.Connection, schema: Schema, identity: str) -> None:
    """Take a worker off the list."""
    conn.execute(schema.workers.delete().where(schema.workers.c.identity == identity))


def processes(conn: sa.Connection, schema: Schema, now: float) -> list[Presence]:
    """The workers on the list that still beat. Entries of another release that cannot be read are left out."""
    table, found = schema.workers, list[Presence]()
    for data in conn.scalars(sa.select(table.c.presence).where(table.c.expires_at > now).order_by(table.c.identity)):
        try:
            found.append(_presence.decode(data))
        except msgspec.MsgspecError:
            continue
    return found


def pause(conn: sa.Connection, dialect: Dialect, queue: str, now: float) -> bool:
    """Note that a queue is paused; whether that is news."""
    added = conn.execute(dialect.sql.add(dialect.schema.paused), {"queue": queue, "paused_at": now})
    return added.rowcount == 1


def resume(conn: sa.Connection, schema: Schema, queue: str) -> bool:
    """Forget it; whether that is news."""
    return conn.execute(schema.paused.delete().where(schema.paused.c.queue == queue)).rowcount == 1


def paused(conn: sa.Connection, schema: Schema) -> frozenset[str]:
    """What is paused."""
    return frozenset(conn.scalars(sa.select(schema.paused.c.queue)))


def _letter(row: sa.RowMapping) -> DeadMessage:
    return DeadMessage(
        id=str(row["id"]),
        message=_message(row, row["mid"]),
        reason=row["reason"],
        error=row["error"],
        meta=None if row["meta"] is None else msgspec.json.decode(row["meta"]),
        group=row["grp"],
        owner=row["owner"],
        died_at=row["died_at"],
        raw=row["raw"],
    )


def _message(row: sa.RowMapping, number: int) -> Message:
    payload: Any = row["payload"]
    return Message(
        id=str(number),
        type=row["type"],
        body=payload if isinstance(payload, bytes) else str(payload).encode(),
        key=row["key"],
        attempt=row["attempts"],
        enqueued_at=row["enqueued_at"],
        headers=EMPTY if row["headers"] is None else read_headers(row["headers"])[0],
    )


def _numbers(ids: Sequence[str]) -> list[int]:
    """Ids as numbers; what is none names nothing here."""
    return [int(i) for i in ids if i.isascii() and i.isdigit() and len(i) < 19]
