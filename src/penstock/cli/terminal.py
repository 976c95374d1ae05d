"""What people and programs see: tables, JSON, ages, and progress of what takes longer than a second.

Rich is imported only when the output is a terminal. Text that came out of a message is stripped of control characters
first: it must not move anybody's cursor.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
import msgspec

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PATIENCE = 1.0  # seconds before progress is worth showing
PLAIN_EVERY = 5.0  # seconds between two lines of progress where there is no terminal


def is_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()


def printable(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\N{REPLACEMENT CHARACTER}" for c in text)


def shorten(text: str, most: int) -> str:
    """At most ``most`` characters of it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def say_json(value: Any, *, lines: bool = False) -> None:
    """Print one JSON document, or with ``lines`` one line of a stream of them."""
    encoded = msgspec.json.encode(value)
    click.echo((encoded if lines else msgspec.json.format(encoded, indent=2)).decode())


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, otherwise columns that ``awk`` understands."""
    cells = [[_cell(value) for value in row] for row in rows]
    if is_terminal():
        _draw(headings, cells)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in (headings, *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def age(seconds: float | None) -> str:
    """A time span for people."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


class Progress:
    """How far a piece of work is, on stderr, once it has taken a second. ``total``: steps, if known."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label, self._total, self._done = label, total, 0
        self._spoke = time.monotonic() + PATIENCE - PLAIN_EVERY
        self._began = time.monotonic()
        self._rich: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._rich is not None:
            self._rich.stop()

    def advance(self, steps: int = 1) -> None:
        """Note that ``steps`` more are done."""
        self._done += steps
        now = time.monotonic()
        if sys.stderr.isatty():
            if self._rich is None and now - self._began >= PATIENCE:
                self._rich = self._start()
            if self._rich is not None:
                self._rich.update(self._rich.task_ids[0], completed=self._done)
        elif now - self._spoke >= PLAIN_EVERY:
            self._spoke = now
            of = "" if self._total is None else f" of {self._total}"
            click.echo(f"{self._label}: {self._done}{of}", err=True)

    def _start(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        progress = RichProgress(console=Console(stderr=True), transient=True)
        progress.add_task(self._label, total=self._total)
        progress.start()
        return progress


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _draw(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*headings, box=box.SIMPLE_HEAD)
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)
