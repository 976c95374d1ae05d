"""``penstock migrate``: makes the tables of a SQL broker, or brings them to this release's version."""

from __future__ import annotations

import asyncio

import click

from ..app import SQL_SCHEMES
from ..config import Settings, mask_url
from ..errors import ConfigurationError
from .options import with_settings


@click.command()
@click.option("--dry-run", "--print", "dry_run", is_flag=True, help="Print the SQL and change nothing.")
@with_settings("broker")
def migrate(settings: Settings, dry_run: bool) -> None:
    """Make the tables of a SQL broker, or bring them to this release's version.

    Nothing else makes tables on a server, unless the address says create=true. Run it before the new release starts:
    what runs of the release before goes on, but starts no more on tables newer than it knows. Says nothing and changes nothing when there is nothing to do.
    """
    url = settings.required_broker()
    if url.partition("://")[0].lower() not in SQL_SCHEMES:
        raise ConfigurationError(f"{mask_url(url)} has no tables; only postgresql://, mysql:// and sqlite:// have")
    from ..clients.sql_migrating import migrate as run

    statements = asyncio.run(run(url, dry_run=dry_run))
    for statement in statements:
        click.echo(statement)
    if not dry_run:
        click.echo(f"-- {len(statements)} statements done" if statements else "-- nothing to do", err=True)
