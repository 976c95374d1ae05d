"""Taking part in somebody else's transaction: publishing in it, and acknowledging in it.

Nothing of it is seen before they commit, nothing is left when they roll back, an announcement on PostgreSQL included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from ...clients.sql import Runner, Work
from ...errors import ConfigurationError
from ...message import Delivery
from .dialect import Dialect
from .rows import Receipt

T = TypeVar("T")


async def run_in(dialect: Dialect, connection: Any, work: Work[T]) -> T:
    """Run ``work`` in the transaction of a session or connection of SQLAlchemy's, asynchronous or not."""
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    def checked(conn: sa.Connection) -> T:
        _check(dialect, conn)
        return work(conn)

    if isinstance(connection, AsyncSession | async_scoped_session):
        connection = await connection.connection()
    if isinstance(connection, AsyncConnection):
        return await connection.run_sync(checked)
    if isinstance(connection, Session | scoped_session):
        connection = connection.connection()
    if isinstance(connection, sa.Connection):
        return checked(connection)
    raise ConfigurationError(
        "connection is a Session, Connection, AsyncSession or AsyncConnection of SQLAlchemy's, got"
        f" {type(connection).__name__}"
    )


def acknowledge(
    conn: sa.Connection, dialect: Dialect, deliveries: Sequence[Delivery[Receipt]]
) -> list[Delivery[Receipt]]:
    """Delete what is still held, by whatever client library; return the rest."""
    table = dialect.schema.messages
    held = table.delete().where(table.c.id == sa.bindparam("row"), table.c.token == sa.bindparam("held"))
    return [
        delivery
        for delivery in deliveries
        if conn.execute(held, dict(zip(("row", "held"), delivery.receipt, strict=True))).rowcount != 1
    ]


async def groups_held(dialect: Dialect, connection: Any, queues: Sequence[str], runner: Runner) -> dict[str, list[str]]:
    """The groups of queues, which the transaction of ``connection`` keeps as they are from now on.

    ``runner``, a connection of ours, looks: what theirs sees under REPEATABLE READ may be older than a group, which would
    never get the message. (SQLite lets nobody write who has looked at something older.)
    """
    await run_in(dialect, connection, lambda conn: dialect.hold(conn, queues))
    return await runner.run(lambda conn: {queue: dialect.groups(conn, queue) for queue in queues}, write=False)


def _check(dialect: Dialect, conn: sa.Connection) -> None:
    name = "mysql" if conn.dialect.name == "mariadb" else conn.dialect.name
    if name != dialect.family:
        raise ConfigurationError(
            f"the connection is to {name}, the broker lives on {dialect.family}: one transaction has one database"
        )
    driver: Any = conn.connection.driver_connection
    if name == "sqlite" and not driver.in_transaction:
        # Python's module begins by itself only before it writes, and a savepoint outside of a transaction is one
        conn.exec_driver_sql("BEGIN IMMEDIATE")
