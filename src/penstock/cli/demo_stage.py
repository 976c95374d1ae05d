"""What the audience of the demo sees: on a terminal a live view by rich, elsewhere plain lines."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from .demo_record import Summary, Tally
from .terminal import is_terminal

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

PLAIN_EVERY = 1.0  # seconds between two lines of progress where nobody sees a bar


class Stage:
    """Tells the story. ``quiet``: everything to stderr, because stdout is for a program."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._began = self._spoke = time.monotonic()
        self._status = ""
        self._live: Live | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if is_terminal() and not self._quiet:
            self._raise_curtain()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the curtain rose."""
        return time.monotonic() - self._began

    def act(self, title: str) -> None:
        """A new chapter."""
        if self._live is None:
            click.echo(f"\n{title}", err=self._quiet)
        else:
            from rich.text import Text

            self._live.console.print(Text(f"\n{title}", style="bold"))

    def tell(self, text: str) -> None:
        """One thing has happened."""
        line = f"  {self.seconds:5.1f} s  {text}"
        if self._live is None:
            click.echo(line, err=self._quiet)
        else:
            self._live.console.print(line, markup=False, highlight=False)

    def show(self, tally: Tally, sent: int, workers: int) -> None:
        """The state of things now."""
        done, endings = len(tally.jobs_done), tally.endings
        status = f"{done} of {sent} done, {endings['retry']} retries, {endings['dead']} dead, {workers} workers"
        if self._live is not None and self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=sent, description=status)
            return
        now = time.monotonic()
        if status != self._status and now - self._spoke >= PLAIN_EVERY:
            self._status, self._spoke = status, now
            self.tell(status)

    def _raise_curtain(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(bar_width=40), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns)
        self._bar.add_task("", total=None)
        self._live = Live(self._bar, refresh_per_second=10)
        self._live.start()


def say_summary(summary: Summary, *, err: bool = False) -> None:
    """The sums, written out so that the reader can check them."""
    s = summary
    lines = [
        "",
        "Summary, from the handlers' own record and the broker's counts:",
        f"  {s.done:>5} done        = {s.sent} sent + {s.repeated} repeated",
        (
            f"  {s.executions:>5} executions  = {s.sent} sent + {s.retried} retried + {s.requeued} requeued"
            f" + {s.crashed} crashed + {s.repeated} repeated"
        ),
        f"  {s.dead:>5} dead        = {s.requeued} requeued, then done",
        f"  {s.left:>5} left in the broker",
        "",
        *(f"  WRONG: {problem}" for problem in s.problems),
        f"Nothing was lost, in {s.seconds} seconds." if not s.problems else "The numbers do not add up.",
    ]
    for line in lines:
        click.echo(line, err=err)
