"""Which runner executes the transactions on a database."""

from __future__ import annotations

from .sql import Runner, SqlOptions, Work


def open_runner(options: SqlOptions, prepare: Work[None]) -> Runner:
    """The runner for an address, not connected yet. ``prepare`` checks the tables, or makes them."""
    if options.server is None:
        from .sqlite import SqliteRunner

        return SqliteRunner(options, prepare)
    from .sql_server import ServerRunner

    return ServerRunner(options, prepare)
