"""``penstock archive``: ask the archive what has become of jobs, make its tables, delete what is old."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigurationError
from . import codes
from .options import as_json
from .terminal import age, printable, say_json, shorten, table

if TYPE_CHECKING:
    from ..stores.archive import Archive, ArchivedJob

T = TypeVar("T")

SHOWN = 60  # characters of an error in a table
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _span(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds of a time span such as 90s, 12h, 30d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"expected a number and one of s m h d w, such as 30d; got {value!r}", ctx, param)
    return float(found[1]) * _UNITS[found[2]]


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds since the epoch of a moment such as 2026-11-21 or 2026-11-21T13:00:00Z; UTC if it names no zone."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"expected a moment such as 2026-11-21T13:00:00Z, got {value!r}", ctx, param) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


@click.group()
def archive() -> None:
    """The archive of jobs: what became of each."""


def located(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the archive is; it gets what makes an ``Archive``."""

    @functools.wraps(command)
    def call(url: str, table: str | None, logs_table: str | None, **rest: Any) -> Any:
        named = {"table": table, "logs_table": logs_table}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}

        def make() -> Archive:
            from ..stores.archive import Archive

            return Archive.from_url(url, **given)

        return command(make, **rest)

    decorated: Callable[..., Any] = call
    for add in (
        click.option("--logs-table", metavar="NAME", help="The table of log lines (flux_system_logs)."),
        click.option("--table", metavar="NAME", help="The table of jobs (flux_job_archive)."),
        click.option(
            "--url",
            metavar="URL",
            envvar="PENSTOCK_ARCHIVE",
            required=True,
            help="The database: sqlite:///archive.db, postgresql://… or mysql://… [PENSTOCK_ARCHIVE]",
        ),
    ):
        decorated = add(decorated)
    return decorated


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options by which rows are chosen."""
    for add in (
        as_json,
        click.option("--until", callback=_moment, metavar="MOMENT", help="Not later than this."),
        click.option("--since", callback=_moment, metavar="MOMENT", help="Not earlier than this."),
        click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the newest N."),
        click.option(
            "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="How many."
        ),
        click.option("--queue", metavar="QUEUE", help="Only of this queue."),
    ):
        command = add(command)
    return command


@archive.command("list")
@located
@click.option("--status", metavar="STATUS", help="waiting, completed, failed, discarded, expired or unconfirmed.")
@click.option("--job-id", metavar="ID", help="Only of this job.")
@chosen
def list_(
    make: Callable[[], Archive],
    *,
    status: str | None,
    job_id: str | None,
    queue: str | None,
    limit: int,
    offset: int,
    since: float | None,
    until: float | None,
    as_json: bool,
) -> None:
    """Show rows, newest first."""
    wanted = {"status": status, "job_id": job_id, "start_time": since, "end_time": until}
    rows = _asked(make, lambda archive: archive.list(queue, limit=limit, offset=offset, **wanted))
    _show_rows(rows, as_json=as_json)


@archive.command()
@located
@click.argument("text")
@click.option("--ids", "ids_only", is_flag=True, help="Only jobs whose id begins with TEXT: found by the index.")
@chosen
def search(
    make: Callable[[], Archive],
    *,
    text: str,
    ids_only: bool,
    queue: str | None,
    limit: int,
    offset: int,
    since: float | None,
    until: float | None,
    as_json: bool,
) -> None:
    """Show rows whose job id begins with TEXT, or whose payload or error holds it, newest first."""
    wanted = {"start_time": since, "end_time": until, "ids_only": ids_only}
    rows = _asked(make, lambda archive: archive.search(text, queue=queue, limit=limit, offset=offset, **wanted))
    _show_rows(rows, as_json=as_json)


@archive.command()
@located
@click.argument("queue")
@click.argument("job_id")
@as_json
def show(make: Callable[[], Archive], queue: str, job_id: str, as_json: bool) -> int:
    """Show all that is known of one job of QUEUE, the last word first. Exits with 1 if there is nothing."""

    async def work(archive: Archive) -> Sequence[ArchivedJob]:
        last = await archive.find(queue, job_id)
        rows = await archive.list(queue, job_id=job_id, limit=1000)
        return [] if last is None else [last, *(row for row in rows if row.id != last.id)]

    rows = _asked(make, work)
    if as_json:
        say_json(rows)
    elif not rows:
        click.echo(f"nothing is known of {printable(job_id)} in {printable(queue)}", err=True)
    for row in () if as_json else rows:
        click.echo(f"{_when(row.archived_at)}  {row.status}  {printable(row.type)}  row {row.id}")
        for name, value in {"error": row.error, "payload": row.payload}.items():
            if value is not None:
                click.echo(f"    {name:<8}{printable(str(value))}")
    return codes.OK if rows else codes.FAILED


@archive.command()
@located
@click.option("--older-than", callback=_span, required=True, metavar="SPAN", help="Such as 30d, 12h, 90s.")
@click.option("--dry-run", is_flag=True, help="Say how many, change nothing.")
@as_json
def cleanup(make: Callable[[], Archive], older_than: float, dry_run: bool, as_json: bool) -> None:
    """Delete rows and log lines that are older, a thousand at a time."""

    async def work(archive: Archive) -> int:
        if not dry_run:
            return await archive.cleanup(older_than)
        end = time.time() - older_than
        return await archive.count(end_time=end) + await archive.count_logs(end_time=end)

    rows = _asked(make, work)
    if as_json:
        say_json({"rows": rows, "dry_run": dry_run})
    else:
        click.echo(f"{rows} would be deleted; nothing was changed" if dry_run else f"deleted {rows}")


@archive.command()
@located
@click.option("--dry-run", is_flag=True, help="Print the SQL, change nothing.")
@as_json
def setup(make: Callable[[], Archive], dry_run: bool, as_json: bool) -> None:
    """Make the tables and indexes that are missing."""
    if dry_run:
        statements = make().statements()
        click.echo("\n\n".join(f"{statement};" for statement in statements))
        return
    made = _asked(make, lambda archive: archive.setup(), create=True)
    if as_json:
        say_json({"made": made})
    else:
        click.echo("\n".join(made) or "nothing was missing")


def _asked(make: Callable[[], Archive], work: Callable[[Archive], Awaitable[T]], *, create: bool = False) -> T:
    async def session() -> T:
        async with make() as archive:
            if not create:
                _refuse_missing_file(archive)
            return await work(archive)

    return asyncio.run(session())


def _refuse_missing_file(archive: Archive) -> None:
    """A mistyped name is told, instead of making an empty database of it."""
    if archive.file is not None and not Path(archive.file).exists():
        raise ConfigurationError(f"there is no database {archive.file}; `penstock archive setup` makes it")


def _show_rows(rows: Sequence[ArchivedJob], *, as_json: bool) -> None:
    if as_json:
        say_json(rows)
        return
    now = time.time()
    table(
        ("age", "status", "queue", "job id", "type", "error"),
        [
            (
                None if row.archived_at is None else age(max(0.0, now - row.archived_at)),
                row.status,
                row.queue,
                row.job_id,
                row.type,
                row.error and shorten(printable(row.error), SHOWN),
            )
            for row in rows
        ],
    )


def _when(moment: float | None) -> str:
    return "-" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
