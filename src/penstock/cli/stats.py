"""``penstock stats``: how much waits, is delayed, dead or leased, and which workers are alive."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
import msgspec

from ..broker import Presence, StreamStats
from ..config import Settings
from ..inspector import Inspector
from .inspection import inspect
from .options import as_json, with_settings
from .terminal import age, is_terminal, printable, say_json, table


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that the command shows. ``at``: seconds since the epoch."""

    at: float
    streams: list[StreamStats]
    workers: list[Presence]
    paused: list[str] = []


@click.command()
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Show it again and again.")
@as_json
@with_settings("broker")
def stats(settings: Settings, streams: tuple[str, ...], watch: float | None, as_json: bool) -> None:
    """Sizes of streams and their groups, and the workers alive.

    With --watch and --json: one line of JSON each time.
    """

    async def work(inspector: Inspector) -> None:
        while True:
            snapshot = await _look(inspector, streams)
            if as_json:
                say_json(snapshot, lines=watch is not None)
            else:
                if watch is not None and is_terminal():
                    click.clear()
                _show(snapshot)
            if watch is None:
                return
            await asyncio.sleep(watch)

    inspect(settings, work)


async def _look(inspector: Inspector, streams: tuple[str, ...]) -> Snapshot:
    found = await inspector.stats(*streams)
    return Snapshot(time.time(), found, list(await inspector.processes()), sorted(await inspector.paused()))


def _show(snapshot: Snapshot) -> None:
    rows: list[tuple[Any, ...]] = []
    for stream in snapshot.streams:
        name = f"{stream.source} (paused)" if stream.source in snapshot.paused else stream.source
        sizes = (name, stream.size, stream.delayed, stream.dead, age(stream.oldest_age))
        groups: list[tuple[Any, ...]] = [(g.name, g.leased, g.lag, g.owners) for g in stream.groups] or [(None,) * 4]
        rows += [(*(("",) * 5 if number else sizes), *group) for number, group in enumerate(groups)]
    if rows:
        table(("STREAM", "SIZE", "DELAYED", "DEAD", "OLDEST", "GROUP", "LEASED", "LAG", "OWNERS"), rows)
    else:
        click.echo("no streams yet")
    if others := set(snapshot.paused) - {stream.source for stream in snapshot.streams}:
        click.echo(f"also paused: {', '.join(printable(name) for name in sorted(others))}")
    click.echo()
    if not snapshot.workers:
        click.echo("no workers alive")
        return
    table(
        ("WORKER", "CONSUMERS", "BUSY", "STATE", "UP", "BEAT", "MEMORY"),
        [
            (
                worker.identity,
                ", ".join(worker.consumers),
                f"{worker.busy}/{worker.concurrency}",
                _state(worker),
                age(snapshot.at - worker.started_at),
                f"{age(max(0.0, snapshot.at - worker.beat_at))} ago",
                f"{worker.rss / 1024**2:.0f} MB",
            )
            for worker in snapshot.workers
        ],
    )


def _state(worker: Presence) -> str:
    if worker.quiet:
        return "quiet"
    if not worker.paused:
        return "running"
    return "paused" if set(worker.paused) >= set(worker.consumers) else f"paused: {', '.join(worker.paused)}"
