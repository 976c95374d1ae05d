"""The tables, and the version that a database carries so that a program meets only tables it understands.

``messages`` holds what waits and what is leased: one row for each group that has yet to finish with a message, and one
in the group ``''`` while nobody has subscribed. Its columns ``id queue payload attempts reserved_at available_at
created_at`` are those of the common ``jobs`` table. ``token`` is the fencing token of the fetch that leased the row,
null while it waits; ``mid`` is the message's id where that is not the row's own. ``streams`` lists the groups of each
queue (``''`` until there is one). ``dead``, ``once``, ``workers`` and ``paused`` are small and cold.
"""

from __future__ import annotations

from functools import lru_cache

import sqlalchemy as sa

from ...errors import ConfigurationError

VERSION = 1

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers only INTEGER keys by itself
_NAME = sa.String(255)


class Schema:
    """One set of tables, all named with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = sa.MetaData()
        self.version = sa.Table(f"{prefix}schema", self.metadata, sa.Column("version", sa.Integer, nullable=False))
        self.messages = self._messages()
        self.streams = sa.Table(
            f"{prefix}streams",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("grp", _NAME, primary_key=True),
            sqlite_with_rowid=False,
        )
        self.dead = self._dead()
        self.once = sa.Table(
            f"{prefix}once",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("type", _NAME, primary_key=True),
            sa.Column("key", _NAME, primary_key=True),
            sa.Column("mid", _ID, nullable=False),
            sa.Column("expires_at", sa.Float, nullable=False, index=True),
        )
        self.workers = sa.Table(
            f"{prefix}workers",
            self.metadata,
            sa.Column("identity", _NAME, primary_key=True),
            sa.Column("presence", sa.LargeBinary, nullable=False),
            sa.Column("expires_at", sa.Float, nullable=False),
        )

        self.paused = sa.Table(
            f"{prefix}paused",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("paused_at", sa.Float, nullable=False),
        )

    def ensure(self, conn: sa.Connection) -> None:
        """Make what is missing. Raises ``ConfigurationError`` if a newer release has been at work here."""
        self.metadata.create_all(conn)
        found = conn.scalar(sa.select(self.version.c.version))
        if found is None:
            conn.execute(self.version.insert().values(version=VERSION))
        elif found != VERSION:
            raise ConfigurationError(
                f"the tables {self.prefix}* have schema version {found}, this release of penstock knows {VERSION}: "
                "run the release that made them, or choose another prefix"
            )

    def _messages(self) -> sa.Table:
        table = sa.Table(
            f"{self.prefix}messages",
            self.metadata,
            sa.Column("id", _ID, primary_key=True),
            sa.Column("queue", _NAME, nullable=False),
            sa.Column("grp", _NAME, nullable=False, server_default=""),
            sa.Column("type", _NAME, nullable=False, server_default=""),
            sa.Column("key", sa.Text),
            sa.Column("headers", sa.Text),
            sa.Column("payload", sa.LargeBinary, nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
            sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
            sa.Column("available_at", sa.Float, nullable=False),
            sa.Column("created_at", sa.Float, nullable=False),
            sa.Column("enqueued_at", sa.Float),
            sa.Column("token", sa.BigInteger),
            sa.Column("owner", sa.Text),
            sa.Column("reserved_at", sa.Float),
            sa.Column("lease_until", sa.Float),
            sa.Column("mid", _ID),
            sqlite_autoincrement=True,  # an id is never used twice, however empty the table was meanwhile
        )
        waits, leased = table.c.token.is_(None), table.c.token.is_not(None)
        # Both hold only what they are asked for: a claim walks over no delayed and no leased row.
        sa.Index(
            f"{self.prefix}waiting",
            *(table.c[name] for name in ("queue", "grp", "available_at", "id")),
            sqlite_where=waits,
            postgresql_where=waits,
        )
        sa.Index(
            f"{self.prefix}leased",
            *(table.c[name] for name in ("queue", "grp", "lease_until")),
            sqlite_where=leased,
            postgresql_where=leased,
        )
        return table

    def _dead(self) -> sa.Table:
        table = sa.Table(
            f"{self.prefix}dead",
            self.metadata,
            sa.Column("id", _ID, primary_key=True),
            sa.Column("mid", _ID, nullable=False),
            sa.Column("queue", _NAME, nullable=False),
            sa.Column("grp", _NAME, nullable=False),
            sa.Column("type", _NAME, nullable=False),
            sa.Column("key", sa.Text),
            sa.Column("headers", sa.Text),
            sa.Column("payload", sa.LargeBinary, nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False),
            sa.Column("deliveries", sa.Integer, nullable=False),
            sa.Column("enqueued_at", sa.Float),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("error", sa.Text),
            sa.Column("traceback", sa.Text),
            sa.Column("meta", sa.Text),
            sa.Column("owner", sa.Text, nullable=False),
            sa.Column("died_at", sa.Float, nullable=False),
            sa.Column("raw", sa.LargeBinary),
            sqlite_autoincrement=True,
        )
        sa.Index(f"{self.prefix}dead_queue", table.c.queue, table.c.id)
        return table


@lru_cache(maxsize=16)
def schema(prefix: str) -> Schema:
    """The tables with this prefix; the same object each time, so that compiled statements are found again."""
    return Schema(prefix)
