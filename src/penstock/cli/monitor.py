"""``penstock monitor``: a Sidekiq database at a glance, in the words and columns of ``sidekiqmon``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ..version import __version__
from .options import as_json
from .terminal import say_json

if TYPE_CHECKING:
    from ..sidekiq.data.data import Data
    from ..sidekiq.data.process_set import Process
    from ..sidekiq.data.stats import QueueSummary, Stats

SECTIONS = ("all", "version", "overview", "processes", "queues")
WIDTH, PAD, COLUMN_PAD = 80, 11, 2
OVERVIEW = (
    ("Processed", "processed"),
    ("Failed", "failed"),
    ("Busy", "workers_size"),
    ("Enqueued", "enqueued"),
    ("Retries", "retry_size"),
    ("Scheduled", "scheduled_size"),
    ("Dead", "dead_size"),
)


@click.command()
@click.argument("section", default="all", metavar="[all|version|overview|processes|queues]")
@click.option(
    "--broker", "url", metavar="URL", help="Where the jobs are. Default: REDIS_PROVIDER, REDIS_URL, localhost."
)
@as_json
def monitor(section: str, url: str | None, as_json: bool) -> None:
    """Numbers, processes and queues of a Sidekiq database."""
    if section not in SECTIONS:
        raise click.UsageError(f"I don't know how to check the status of {section!r}! Try one of {', '.join(SECTIONS)}")
    asyncio.run(_show(section, url, as_json=as_json))


async def _show(section: str, url: str | None, *, as_json: bool) -> None:
    from ..sidekiq.config import Config
    from ..sidekiq.data.data import Data

    config = Config()
    config.url = url
    async with Data.from_url(config.broker_url) as data:
        if as_json:
            say_json(await _facts(data))
            return
        parts: dict[str, Callable[[Data], Awaitable[list[str]]]] = {
            "version": _version,
            "overview": _overview,
            "processes": _processes,
            "queues": _queues,
        }
        chosen = parts.values() if section == "all" else [parts[section]]
        click.echo("\n\n".join(["\n".join(await part(data)) for part in chosen]))


async def _facts(data: Data) -> dict[str, Any]:
    from ..sidekiq.data.process_set import ProcessSet
    from ..sidekiq.data.stats import Stats

    stats = await Stats.of(data)
    return {
        "version": __version__,
        "at": data.clock.time(),
        "overview": {name: getattr(stats, name) for _, name in OVERVIEW},
        "processes": [dict(process.item) async for process in ProcessSet(data)],
        "queues": await Stats.queue_summaries(data),
    }


async def _version(data: Data) -> list[str]:
    now = datetime.fromtimestamp(data.clock.time(), UTC)
    return [f"penstock {__version__}", f"{now:%Y-%m-%d %H:%M:%S} UTC"]


async def _overview(data: Data) -> list[str]:
    from ..sidekiq.data.stats import Stats

    stats: Stats = await Stats.of(data)
    return ["---- Overview ----", *(f"{label:>11}: {getattr(stats, name):,}" for label, name in OVERVIEW)]


async def _processes(data: Data) -> list[str]:
    from ..sidekiq.data.process_set import ProcessSet

    found = [process async for process in ProcessSet(data)]
    told = ["\n".join(_process(process, data.clock.time())) for process in found]
    return [f"---- Processes ({len(found)}) ----", *"\n\n".join(told).splitlines()]


def _process(process: Process, now: float) -> list[str]:
    tags = [process.tag, *process.labels, "quiet" if process.stopping else ""]
    shown = " ".join(f"[{tag}]" for tag in tags if tag)
    started = f"{process.started_at.astimezone():%Y-%m-%d %H:%M:%S %z}"
    lines = [
        f"{process.identity} {shown}".rstrip(),
        f"  Started: {started} ({_ago(now - process.started_at.timestamp())})",
        f"  Threads: {process.concurrency} ({process.busy} busy)",
        f"   Queues: {_wrapped(_queue_names(process))}",
    ]
    if process.version != f"penstock {__version__}":
        lines.append(f"  Version: {process.version or 'Unknown'}")
    return lines


def _queue_names(process: Process) -> list[str]:
    """Those of each capsule together."""
    if not process.capsules:
        return sorted(process.queues)
    return ["; ".join(", ".join(capsule["weights"]) for capsule in process.capsules.values())]


def _wrapped(values: Sequence[str]) -> str:
    lines, line = list[str](), ""
    for value in values:
        if len(line) + len(value) > WIDTH - PAD:
            lines.append(line)
            line = " " * PAD
        line += f"{value}, "
    return "\n".join([*lines, line[:-2]])


def _ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    if seconds < 120:
        return "a minute ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} minutes ago"
    return "an hour ago" if seconds < 7200 else f"{int(seconds // 3600)} hours ago"


async def _queues(data: Data) -> list[str]:
    from ..sidekiq.data.stats import Stats

    found: list[QueueSummary] = await Stats.queue_summaries(data)
    rows = [("NAME", "SIZE", "LATENCY"), *((each.name, str(each.size), f"{each.latency:.2f}") for each in found)]
    name, size, latency = (max(len(row[n]) for row in rows) + COLUMN_PAD for n in range(3))
    lines = [f"{row[0]:<{name}}{row[1]:>{size}}{row[2]:>{latency}}" for row in rows]
    return [f"---- Queues ({len(found)}) ----", *lines]
