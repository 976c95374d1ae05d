"""``penstock monitor``: Sidekiq's numbers, processes and queues, line for line as ``sidekiqmon`` prints them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import click

from ..config import Settings, mask_url
from ..errors import ConfigurationError
from ..sidekiq.data.data import Data
from ..sidekiq.data.process_set import Process, ProcessSet
from ..sidekiq.data.stats import Stats
from ..version import __version__
from .options import with_settings
from .terminal import printable

SECTIONS = ("all", "version", "overview", "processes", "queues")
SCHEME = "sidekiq+"
WIDTH, INDENT, GAP = 80, 11, 2


@click.command()
@click.argument("section", default="all")
@with_settings("broker")
def monitor(settings: Settings, section: str) -> None:
    """What a Sidekiq database holds, and who works on it.

    SECTION: all, version, overview, processes or queues (all).
    """
    url = settings.required_broker()
    if not url.startswith(SCHEME):
        raise ConfigurationError(
            f"monitor reads Sidekiq's keys: expected sidekiq+redis://host:port, got {mask_url(url)}; for other brokers"
            " there is penstock stats"
        )
    if section not in SECTIONS:
        click.echo(f"I don't know how to check the status of '{printable(section)}'!")
        click.echo(f"Try one of these: {', '.join(SECTIONS)}")
        return
    for line in asyncio.run(_lines(url, section)):
        click.echo(printable(line))


async def _lines(url: str, section: str) -> list[str]:
    async with Data.from_url(url) as data:
        wanted = SECTIONS[1:] if section == "all" else (section,)
        parts = [await _PARTS[name](data) for name in wanted]
    return [line for number, part in enumerate(parts) for line in ([""] if number else []) + part]


async def version(_: Data) -> list[str]:
    return [f"penstock {__version__}", datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")]


async def overview(data: Data) -> list[str]:
    stats = await Stats.load(data)
    numbers = {
        "Processed": stats.processed,
        "Failed": stats.failed,
        "Busy": stats.workers_size,
        "Enqueued": stats.enqueued,
        "Retries": stats.retry_size,
        "Scheduled": stats.scheduled_size,
        "Dead": stats.dead_size,
    }
    return ["---- Overview ----", *(f"{name:>11}: {number:,}" for name, number in numbers.items())]


async def processes(data: Data) -> list[str]:
    found = [process async for process in ProcessSet(data)]
    lines = [f"---- Processes ({len(found)}) ----"]
    for number, process in enumerate(found):
        lines += ([""] if number else []) + described(process, time.time())
    return lines


async def queues(data: Data) -> list[str]:
    summaries = (await Stats.load(data)).queue_summaries
    found = sorted((queue.name, str(queue.size), f"{queue.latency:.2f}") for queue in summaries)
    rows = [("NAME", "SIZE", "LATENCY"), *found]
    name, size, latency = (max(map(len, column)) + GAP for column in zip(*rows, strict=True))
    return [
        f"---- Queues ({len(found)}) ----",
        *(f"{row[0].ljust(name)}{row[1].rjust(size)}{row[2].rjust(latency)}" for row in rows),
    ]


_PARTS: dict[str, Callable[[Data], Awaitable[list[str]]]] = {
    "version": version,
    "overview": overview,
    "processes": processes,
    "queues": queues,
}


def described(process: Process, now: float) -> list[str]:
    """The lines about one process."""
    tags = [tag for tag in (process.tag, *process.labels, "quiet" if process.stopping else "") if tag]
    started = process.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    capsules = [", ".join(each.get("weights") or ()) for each in process.capsules.values()]
    capsules = (
        capsules or [", ".join(each) for each in process.info.get("weights") or ()] or [", ".join(process.queues)]
    )
    lines = [
        f"{process.identity} {''.join(f'[{tag}] ' for tag in tags)}".rstrip(),
        f"  Started: {started} ({ago(now - process.started_at.timestamp())})",
        f"  Threads: {process.concurrency} ({process.busy} busy)",
        *f"   Queues: {wrapped(capsules)}".split("\n"),
    ]
    return (
        lines
        if process.version == f"penstock {__version__}"
        else [*lines, f"  Version: {process.version or 'Unknown'}"]
    )


def wrapped(values: Sequence[str]) -> str:
    """Values in a row, in as many lines as they need."""
    lines, line = list[str](), ""
    for value in values:
        if len(line) + len(value) > WIDTH - INDENT:
            lines.append(line)
            line = " " * INDENT
        line += f"{value}; "
    return "\n".join([*lines, line[:-2]])


def ago(seconds: float) -> str:
    """A time span in words."""
    if seconds < 60:
        return "just now"
    if seconds < 120:
        return "a minute ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} minutes ago"
    return "an hour ago" if seconds < 7200 else f"{int(seconds // 3600)} hours ago"
