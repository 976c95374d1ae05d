"""``penstock pause`` and ``penstock resume``: stop the workers from fetching, and let them go on."""

from __future__ import annotations

import click
import msgspec

from ..config import Settings
from ..inspector import Inspector
from .inspection import inspect
from .options import as_json, with_settings
from .terminal import printable, say_json


class Change(msgspec.Struct, frozen=True):
    """What a command has done to one stream, or with ``dry_run`` would do. ``changed``: it was not so before."""

    stream: str
    paused: bool
    changed: bool
    dry_run: bool


@click.command()
@click.argument("streams", nargs=-1, required=True, metavar="STREAM...")
@click.option("--dry-run", is_flag=True, help="Say which, change nothing.")
@as_json
@with_settings("broker")
def pause(settings: Settings, streams: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Have every worker fetch no more from STREAM, until it is resumed.

    Workers notice within a few seconds. They give back what they have not begun and finish what runs; producers go on
    sending. Of a stream in shards, give the name that the shards have in common, or that of one shard.
    """
    _change(settings, streams, paused=True, dry_run=dry_run, as_json=as_json)


@click.command()
@click.argument("streams", nargs=-1, required=True, metavar="STREAM...")
@click.option("--dry-run", is_flag=True, help="Say which, change nothing.")
@as_json
@with_settings("broker")
def resume(settings: Settings, streams: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Let the workers go on fetching from STREAM.

    What a program has paused by itself, with `Consumer.pause()`, stays paused.
    """
    _change(settings, streams, paused=False, dry_run=dry_run, as_json=as_json)


def _change(settings: Settings, streams: tuple[str, ...], *, paused: bool, dry_run: bool, as_json: bool) -> None:
    async def work(inspector: Inspector) -> list[Change]:
        verb = inspector.pause if paused else inspector.resume
        before = await inspector.paused()
        return [
            Change(name, paused, (name in before) != paused if dry_run else await verb(name), dry_run)
            for name in dict.fromkeys(streams)
        ]

    changes = inspect(settings, work)
    if as_json:
        say_json(changes)
        return
    for change in changes:
        click.echo(f"{printable(change.stream)}: {_said(change)}")


def _said(change: Change) -> str:
    if not change.changed:
        return "is paused already" if change.paused else "is not paused"
    if change.dry_run:
        return f"would be {'paused' if change.paused else 'resumed'}"
    return "paused: workers notice within seconds" if change.paused else "resumed"
