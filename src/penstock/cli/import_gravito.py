"""``penstock import-gravito``: moves what @gravito/stream has left queued into a broker of ours."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..contrib.gravito import Mover, Report, gravito_source
from ..queueing.application import App
from . import codes
from .options import as_json
from .terminal import printable, say_json, shorten, table

SHOWN = 20  # of those that stay, on a terminal; --json shows all


@click.command("import-gravito")
@click.argument("source_url", metavar="SOURCE_URL")
@click.option("--to", metavar="URL", required=True, help="Where the jobs shall be, such as redis://… or sqlite:///….")
@click.option("--prefix", default="queue:", show_default=True, help="Of the original's keys in Redis.")
@click.option("--table", "jobs_table", default="jobs", show_default=True, help="The original's table in a database.")
@click.option(
    "--failed",
    type=click.Choice(["keep", "retry"]),
    default="keep",
    show_default=True,
    help="Jobs that have failed for good: leave them, or move them as fresh ones.",
)
@click.option(
    "--timezone", default="UTC", show_default=True, metavar="ZONE", help="That of the original's cron expressions."
)
@click.option("--store", metavar="URL", help="Where recurring jobs are kept, if not beside the broker.")
@click.option("--dry-run", is_flag=True, help="Say what would be moved, change nothing.")
@as_json
def import_gravito(
    source_url: str, to: str, prefix: str, jobs_table: str, store: str | None, as_json: bool, **how: Any
) -> int:
    """Move what @gravito/stream has left at SOURCE_URL: its Redis, or the database with its jobs table.

    Stop its workers first. Order, delays, priorities, attempts, groups and backoffs are kept. May be stopped and run
    again at any time. Exits with 1 if something could not be moved; that stays where it is.
    """

    async def work() -> Report:
        source = gravito_source(source_url, prefix=prefix, table=jobs_table)
        try:
            async with App(to, store=store) as app:
                return await Mover(source, app, **how).run()
        finally:
            await source.close()

    report = asyncio.run(work())
    if as_json:
        say_json(report)
    else:
        _show(report)
    return codes.FAILED if report.left else codes.OK


def _show(report: Report) -> None:
    if report.moved:
        table(("QUEUE", "JOBS"), sorted(report.moved.items()))
    verb = "would be moved" if report.dry_run else "moved"
    click.echo(
        f"{report.moved.total()} jobs {verb}, {report.delayed} of them delayed; schedules: {len(report.schedules)}"
    )
    if report.failed:
        click.echo(f"{report.failed} failed jobs stay; --failed retry moves them as fresh ones")
    if report.taken:
        click.echo(f"{report.taken} were taken by somebody else meanwhile: is a worker of the original still running?")
    for name in report.paused:
        click.echo(f"{printable(name)} is paused in the original; penstock pause pauses it here")
    for each in report.left[:SHOWN]:
        click.echo(f"not moved: {printable(each.place)}: {printable(shorten(each.reason, 300))}", err=True)
    if len(report.left) > SHOWN:
        click.echo(f"not moved: {len(report.left) - SHOWN} more; --json shows them", err=True)
