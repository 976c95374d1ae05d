"""``penstock dlq``: look at dead letters, put them back, or delete them for good."""

from __future__ import annotations

import base64
import fnmatch
import functools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import msgspec

from ..broker import DeadMessage
from ..config import Settings
from ..inspector import Inspector
from . import codes
from .inspection import inspect
from .options import as_json, with_settings
from .terminal import Progress, age, printable, say_json, shorten

PAYLOAD_SHOWN = 300  # characters; --json shows all of it
AT_ONCE = 500


class Selection(msgspec.Struct, frozen=True):
    """Which dead letters are meant. ``reason`` may have wildcards."""

    ids: frozenset[str] = frozenset()
    type: str | None = None
    reason: str | None = None
    limit: int | None = None

    def wants(self, letter: DeadMessage) -> bool:
        """Whether it is one of them."""
        return (
            (not self.ids or letter.id in self.ids)
            and (self.type is None or letter.message.type == self.type)
            and (self.reason is None or fnmatch.fnmatchcase(letter.reason, self.reason))
        )

    async def find(self, inspector: Inspector, stream: str) -> list[str]:
        """Their ids. Found before anything is changed: what dies again meanwhile is not met twice."""
        found: list[str] = []
        with Progress("looking through dead letters") as progress:
            async for letter in inspector.each_dead(stream):
                progress.advance()
                if self.wants(letter):
                    found.append(letter.id)
                if self.limit is not None and len(found) >= self.limit:
                    break
        return found


class Result(msgspec.Struct, frozen=True):
    """What a command has done, or with ``dry_run`` would do. ``missing``: selected, but not there or not readable."""

    stream: str
    action: str
    selected: int
    done: int
    missing: int
    dry_run: bool
    ids: Sequence[str]


@click.group()
def dlq() -> None:
    """Dead letters: look at them, put them back, delete them."""


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments and options by which dead letters are chosen; it gets a ``Selection``."""

    @functools.wraps(command)
    def call(
        ids: tuple[str, ...], everything: bool, type_: str | None, reason: str | None, limit: int | None, **rest: Any
    ) -> Any:
        if ids and everything:
            raise click.UsageError("name IDs or --all, not both")
        if not ids and not everything and type_ is None and reason is None:
            raise click.UsageError("which dead letters? Name their IDs, or --all, or choose by --type or --reason")
        return command(selection=Selection(frozenset(ids), type_, reason, limit), **rest)

    chosen: Callable[..., Any] = call
    for add in (
        as_json,
        click.option("--dry-run", is_flag=True, help="Say which, change nothing."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The oldest N at most."),
        click.option("--reason", metavar="REASON", help="Only with this reason; * and ? are wildcards."),
        click.option("--type", "type_", metavar="TYPE", help="Only messages of this type."),
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.argument("stream"),
    ):
        chosen = add(chosen)
    return chosen


@dlq.command()
@click.argument("stream")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many.")
@click.option("--after", metavar="ID", help="Begin behind this one.")
@as_json
@with_settings("broker")
def peek(settings: Settings, stream: str, limit: int, after: str | None, as_json: bool) -> None:
    """Show dead letters of STREAM, oldest first, changing nothing."""

    async def work(inspector: Inspector) -> tuple[Sequence[DeadMessage], int]:
        letters = await inspector.dead(stream, limit, after=after)
        return letters, (await inspector.stats(stream))[0].dead

    letters, total = inspect(settings, work)
    if as_json:
        say_json([_as_builtins(letter) for letter in letters])
        return
    for letter in letters:
        _show(letter)
    click.echo(f"{len(letters)} of {total} dead letters of {printable(stream)}")
    if len(letters) == limit and limit < total:
        click.echo(f"more: --after {letters[-1].id}")


@dlq.command()
@selecting
@with_settings("broker")
def requeue(settings: Settings, stream: str, selection: Selection, dry_run: bool, as_json: bool) -> int:
    """Put dead letters of STREAM back as fresh messages.

    Name their IDs, or --all, or choose by --type and --reason. Exits with 1 if one was not there any more or cannot be
    read; an unreadable one stays where it is.
    """
    result = _change(settings, stream, selection, "requeue", dry_run=dry_run)
    return _report(result, "requeued", as_json=as_json)


@dlq.command()
@selecting
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_settings("broker")
def purge(settings: Settings, stream: str, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete dead letters of STREAM for good.

    Name their IDs, or --all, or choose by --type and --reason. Exits with 1 if one was not there any more.
    """
    if not yes and not dry_run:
        if not sys.stdin.isatty():
            raise click.UsageError("purge deletes for good and nobody is here to be asked; add --yes")
        planned = _change(settings, stream, selection, "purge", dry_run=True)
        if planned.selected:
            click.confirm(
                f"Delete {planned.selected} dead letters of {printable(stream)} for good?", abort=True, err=True
            )
    result = _change(settings, stream, selection, "purge", dry_run=dry_run)
    return _report(result, "purged", as_json=as_json)


def _change(settings: Settings, stream: str, selection: Selection, action: str, *, dry_run: bool) -> Result:
    async def work(inspector: Inspector) -> Result:
        ids = await selection.find(inspector, stream)
        missing = max(0, min(len(selection.ids), selection.limit or len(selection.ids)) - len(ids))
        if dry_run:
            return Result(stream, action, len(ids), 0, missing, True, ids)
        verb = inspector.requeue if action == "requeue" else inspector.purge_dead
        done = await _in_steps(verb, stream, ids, action)
        return Result(stream, action, len(ids), done, missing + len(ids) - done, False, ids)

    return inspect(settings, work)


async def _in_steps(
    verb: Callable[[str, Sequence[str]], Awaitable[int]], stream: str, ids: Sequence[str], label: str
) -> int:
    done = 0
    with Progress(label, len(ids)) as progress:
        for start in range(0, len(ids), AT_ONCE):
            step = ids[start : start + AT_ONCE]
            done += await verb(stream, step)
            progress.advance(len(step))
    return done


def _report(result: Result, participle: str, *, as_json: bool) -> int:
    if as_json:
        say_json(result)
    elif result.dry_run:
        for ident in result.ids:
            click.echo(ident)
        click.echo(f"{result.selected} would be {participle}; nothing was changed")
    else:
        click.echo(f"{participle} {result.done}")
    if result.missing and not as_json:
        click.echo(f"{result.missing} not there any more, not chosen by the filters, or not readable", err=True)
    return codes.FAILED if result.missing else codes.OK


def _as_builtins(letter: DeadMessage) -> dict[str, Any]:
    """A letter for ``--json``: bytes as text where they are text, else base64 under another name."""
    built: dict[str, Any] = msgspec.to_builtins(letter, builtin_types=(bytes,))
    message = built["message"]
    message.update(_bytes("body", message.pop("body")))
    raw = built.pop("raw")
    return {**built, **(_bytes("raw", raw) if raw is not None else {"raw": None})}


def _bytes(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _show(letter: DeadMessage) -> None:
    message = letter.message
    when = "" if letter.died_at is None else f", {age(max(0.0, time.time() - letter.died_at))} ago"
    click.echo(
        printable(
            f"{letter.id}  {message.type or '(no type)'}  attempt {message.attempt + 1}  {letter.reason or '(no reason)'}{when}"
        )
    )
    lines = {
        "group": f"{letter.group} ({letter.owner})" if letter.group else None,
        "key": message.key,
        "error": letter.error,
        "meta": None if letter.meta is None or letter.meta is msgspec.UNSET else repr(letter.meta),
        "payload": _text(message.body),
        "raw": None if letter.raw is None else _text(letter.raw),
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"    {name:<8}{shorten(printable(value), PAYLOAD_SHOWN)}")


def _text(value: bytes) -> str:
    text = value[: 4 * PAYLOAD_SHOWN].decode(errors="replace")
    return text if len(text) <= PAYLOAD_SHOWN else f"{text[:PAYLOAD_SHOWN]}… ({len(value)} bytes)"
