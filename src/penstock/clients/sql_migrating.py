"""Making and changing the tables on purpose: what ``penstock migrate`` does."""

from __future__ import annotations

import sqlalchemy as sa

from .sql import SqlOptions
from .sql_opening import open_runner
from .sql_schema import schema, sql

_PATIENCE = 300.0  # an index over a long table takes its time


async def migrate(url: str, *, dry_run: bool = False) -> list[str]:
    """Bring the tables to this release's version; return the statements, which ``dry_run`` does not run.

    Raises ``ConfigurationError`` if a newer release has been at work there; ``ConnectionFailed``, ``AccessDenied``.
    """
    options = SqlOptions.from_url(url, timeout=_PATIENCE)
    tables = schema(options.prefix)

    def work(conn: sa.Connection) -> list[str]:
        if dry_run:
            return [sql(conn, statement) for statement in tables.plan(conn)]
        return tables.migrate(conn)

    runner = open_runner(options, lambda _: None)
    try:
        return await runner.run(work)
    finally:
        await runner.close()
