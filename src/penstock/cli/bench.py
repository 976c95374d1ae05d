"""``penstock bench``: how fast this machine's broker is under penstock, and beside a bare client's loop."""

from __future__ import annotations

import asyncio
import sys

import click
import msgspec

from .bench_run import Report, loop_name, measure

JOBS, ROUNDS = 50_000, 3


@click.command()
@click.option("--broker", "-b", "url", envvar="PENSTOCK_BROKER", required=True, metavar="URL", help="What to measure.")
@click.option("--jobs", type=click.IntRange(min=1), default=JOBS, show_default=True, help="Jobs of one round.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Rounds to take medians of."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(url: str, jobs: int, rounds: int, as_json: bool) -> None:
    """Measure publishing, consuming, latency and memory.

    Everything runs in this one process, with typed payloads of about 100 bytes and a handler that does nothing, on
    streams (or, for SQLite, files beside the named one) that are removed afterwards. A bare client does the same work
    in the same run: the ratio is penstock's rate divided by the bare one's, whatever the machine.
    """
    report = run(url, jobs, rounds, quiet=not sys.stderr.isatty())
    click.echo(msgspec.json.encode(report).decode() if as_json else text_of(report))


def run(url: str, jobs: int, rounds: int, *, quiet: bool) -> Report:
    """Measure on a fresh event loop."""

    def progress(text: str) -> None:
        if not quiet:
            click.echo(f"{text} …", err=True)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(measure(url, jobs, rounds, progress))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if loop_name() != "uvloop":
        return None
    import uvloop

    return uvloop.Loop


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
        f"{report.broker}: {report.jobs:,} jobs a round, medians of {report.rounds},"
        f" Python {report.python}, {report.loop}",
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
