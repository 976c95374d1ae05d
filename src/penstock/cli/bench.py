"""``penstock bench``: how fast this machine's broker is under penstock, and beside a bare client's loop."""

from __future__ import annotations

import click

from ..config import Settings
from . import loop
from .bench_run import Report, measure
from .options import as_json, with_settings
from .terminal import is_terminal, say_json

JOBS, ROUNDS = 50_000, 3


@click.command()
@click.option("--jobs", type=click.IntRange(min=1), default=JOBS, show_default=True, help="Jobs of one round.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Rounds to take medians of."
)
@as_json
@with_settings("broker", "uvloop")
def bench(settings: Settings, jobs: int, rounds: int, as_json: bool) -> None:
    """Measure publishing, consuming, latency and memory.

    Everything runs in this one process, with typed payloads of about 100 bytes and a handler that does nothing, on
    streams (or, for SQLite, in files beside the named one) that are removed afterwards.

    A bare client does the same work in the same run: a ratio is penstock's rate divided by the bare one's, and means
    the same on every machine. Other programs that are busy meanwhile disturb it all the same.
    """
    report = _run(settings, jobs, rounds)
    if as_json:
        say_json(report)
    else:
        click.echo(text_of(report))


def _run(settings: Settings, jobs: int, rounds: int) -> Report:
    """Measure on a fresh event loop, memory settled as in a worker."""
    url = settings.required_broker()

    def progress(text: str) -> None:
        if is_terminal():
            click.echo(f"{text} …", err=True)

    loop.settle_memory()
    return loop.run(measure(url, jobs, rounds, progress), uvloop=settings.uvloop)


def text_of(report: Report) -> str:
    """The report as a table."""
    publish, many, consume, bare = report.publish, report.send_many, report.consume, report.bare
    rows = [
        ("publish, one awaited after the other", publish.awaited_per_s, bare.publish_per_s, publish.ratio),
        ("publish, many sends at once", publish.gathered_per_s, None, None),
        ("publish, send_many", many.per_s, bare.send_many_per_s, many.ratio),
        ("consume", consume.per_s, bare.consume_per_s, consume.ratio),
    ]
    lines = [
        f"{report.broker}: {report.jobs:,} jobs a round, medians of {report.rounds}, {report.python}, {report.loop}",
        "",
        f"{'messages per second':38}{'penstock':>12}{'bare client':>14}{'ratio':>8}",
    ]
    for name, ours, theirs, ratio in rows:
        right = f"{theirs:>14,}{ratio:>8.2f}" if theirs is not None and ratio is not None else f"{'-':>14}{'-':>8}"
        lines.append(f"{name:38}{ours:>12,}{right}")
    latency, memory = report.latency, report.memory
    lines += [
        "",
        f"{'from send to start of the handler':38}{latency.p50_ms:>9.2f} ms p50{latency.p99_ms:>9.2f} ms p99",
        f"{'memory of this process':38}{memory.rss_mb:>9.1f} MB at work{memory.before_mb:>9.1f} MB before",
    ]
    return "\n".join(lines)
