"""Patterns and their groups as rows; a post is published in the transaction that looks at them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from ...bindings import PREFIX, Fate, Post, Posted, matching, outgoing
from ...broker import Outgoing
from .dialect import Dialect
from .publishing import publish


def bind(conn: sa.Connection, dialect: Dialect, pattern: str, group: str) -> None:
    """Add a binding, unless it is there."""
    conn.execute(dialect.sql.add(dialect.schema.bindings), {"pattern": pattern, "grp": group})


def unbind(conn: sa.Connection, dialect: Dialect, pattern: str, group: str) -> bool:
    """Remove a binding, and its group with what it has not read."""
    table, streams, messages = dialect.schema.bindings, dialect.schema.streams, dialect.schema.messages
    queue = PREFIX + pattern
    gone = conn.execute(table.delete().where(table.c.pattern == pattern, table.c.grp == group)).rowcount
    if not gone:
        return False
    dialect.seize(conn, queue)
    conn.execute(streams.delete().where(streams.c.queue == queue, streams.c.grp == group))
    conn.execute(messages.delete().where(messages.c.queue == queue, messages.c.grp == group))
    return True


def bindings(conn: sa.Connection, dialect: Dialect) -> Mapping[str, frozenset[str]]:
    """The groups of each pattern."""
    table, found = dialect.schema.bindings, defaultdict[str, set[str]](set)
    for row in conn.execute(sa.select(table.c.pattern, table.c.grp)):
        found[row.pattern].add(row.grp)
    return {pattern: frozenset(groups) for pattern, groups in found.items()}


def post(
    conn: sa.Connection, dialect: Dialect, posts: Sequence[Post], *, max_body: int, careful: bool = True
) -> tuple[list[Fate], set[str]]:
    """Publish each post to all its sources; their fates, and the sources that have news."""
    table = dialect.schema.bindings
    patterns = sorted(conn.scalars(sa.select(table.c.pattern).distinct()))
    items, parts, matched = list[Outgoing](), list[range](), list[int]()
    for each in posts:
        found = matching(patterns, each.message.type)
        names = found or ([each.message.type] if each.keep else [])
        parts.append(range(len(items), len(items) + len(names)))
        matched.append(len(found))
        items += outgoing(each, [PREFIX + name for name in names])
    again = set[int]()
    fates = publish(conn, dialect, items, max_body=max_body, careful=careful, again=again) if items else []
    told = list[Fate]()
    for places, count in zip(parts, matched, strict=True):
        wrong = [fate for place in places if isinstance(fate := fates[place], Exception)]
        ids = tuple(str(fates[place]) for place in places if place not in again)
        told.append(wrong[0] if wrong else Posted(ids=ids, matched=count))
    return told, {item.destination for item in items}
