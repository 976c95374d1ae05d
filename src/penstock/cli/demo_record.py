"""The demo's independent record: the handlers write down each execution, and the sums must agree with the broker.

``Record`` appends, one ``write`` a line, so that lines of several processes never mix and a killed process loses none.
``Tally`` reads; ``check`` says what does not add up:

* done = sent + repeated; a job may repeat only if a killed worker had done it and died before saying so
* executions = sent + retried + requeued + crashed + repeated
* what broke off belongs to a killed worker, and was done by another one later
* dead letters as recorded = as counted by the broker = requeued
* nothing is left in the broker, and every worker that was asked to stop did so cleanly
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Ending: TypeAlias = Literal["done", "retry", "dead"]


class Entry(msgspec.Struct, frozen=True):
    """One line: an execution begins (``ending`` is ``None``) or ends. ``run`` names the execution."""

    run: str
    pid: int
    job: int
    attempt: int
    at: float
    ending: Ending | None = None


class Record:
    """A file that any number of processes append to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._runs = 0

    def start(self, job: int, attempt: int) -> Entry:
        """Note that an execution begins."""
        self._runs += 1
        pid = os.getpid()
        entry = Entry(f"{pid}-{self._runs}", pid, job, attempt, time.time())
        self._write(entry)
        return entry

    def end(self, run: Entry, ending: Ending) -> None:
        """Note how it ended."""
        self._write(msgspec.structs.replace(run, at=time.time(), ending=ending))

    def _write(self, entry: Entry) -> None:
        os.write(self._file, msgspec.json.encode(entry) + b"\n")


def read(path: Path, offset: int = 0) -> tuple[list[Entry], int]:
    """The whole lines from ``offset`` on, and where the next ones will begin."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole, newline, _ = content.rpartition(b"\n")
    return [msgspec.json.decode(line, type=Entry) for line in whole.splitlines()], offset + len(whole) + len(newline)


@dataclass(slots=True)
class Tally:
    """Counts of the lines read so far."""

    starts: list[Entry] = field(default_factory=list[Entry])
    ends: dict[str, Entry] = field(default_factory=dict[str, Entry])
    endings: Counter[Ending] = field(default_factory=Counter["Ending"])
    twice: list[Entry] = field(default_factory=list[Entry])
    _begun: set[str] = field(default_factory=set[str])

    def add(self, entries: Iterable[Entry]) -> None:
        """Count more lines."""
        for entry in entries:
            if entry.ending is None:
                if entry.run in self._begun:
                    self.twice.append(entry)
                self._begun.add(entry.run)
                self.starts.append(entry)
                continue
            if entry.run in self.ends:
                self.twice.append(entry)
            self.ends[entry.run] = entry
            self.endings[entry.ending] += 1

    @property
    def jobs_done(self) -> set[int]:
        """The jobs that have been done at least once."""
        return {entry.job for entry in self.ends.values() if entry.ending == "done"}

    @property
    def crashed(self) -> list[Entry]:
        """The executions that began and did not end."""
        return [entry for entry in self.starts if entry.run not in self.ends]

    def done_by(self, job: int) -> list[int]:
        """The processes that did a job, in order."""
        return [entry.pid for entry in self.ends.values() if entry.job == job and entry.ending == "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What others than the handlers counted.

    ``sent``: jobs that the broker acknowledged to the producer. ``dead`` and ``left``: dead letters before requeueing,
    and whatever remained in the end, as the broker says. ``killed``: pids. ``exits``: of the workers asked to stop.
    """

    sent: Sequence[int]
    dead: int
    requeued: int
    left: int
    killed: frozenset[int]
    exits: Sequence[int]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers at the end. ``problems`` is empty when they add up."""

    sent: int
    done: int
    executions: int
    retried: int
    dead: int
    requeued: int
    crashed: int
    repeated: int
    left: int
    seconds: float
    problems: list[str]


def summarize(tally: Tally, books: Books, seconds: float) -> Summary:
    """Draw up the sums."""
    return Summary(
        sent=len(books.sent),
        done=tally.endings["done"],
        executions=len(tally.starts),
        retried=tally.endings["retry"],
        dead=tally.endings["dead"],
        requeued=books.requeued,
        crashed=len(tally.crashed),
        repeated=sum(len(tally.done_by(job)) - 1 for job in tally.jobs_done),
        left=books.left,
        seconds=round(seconds, 1),
        problems=check(tally, books),
    )


def check(tally: Tally, books: Books) -> list[str]:
    """Everything that does not add up."""
    return [*_jobs(tally, books), *_crashes(tally, books), *_sums(tally, books)]


def _jobs(tally: Tally, books: Books) -> list[str]:
    sent, done = set(books.sent), tally.jobs_done
    problems = [f"job {job} was sent and never done" for job in sorted(sent - done)]
    problems += [f"job {job} was done and never sent" for job in sorted(done - sent)]
    if len(sent) < len(books.sent):
        problems.append("the producer sent a job twice")
    problems += [f"an execution of job {entry.job} began or ended twice" for entry in tally.twice]
    begun = {entry.run for entry in tally.starts}
    problems += [f"job {e.job} ended without having begun" for e in tally.ends.values() if e.run not in begun]
    for job in sorted(done):
        unexplained = [pid for pid in tally.done_by(job)[:-1] if pid not in books.killed]
        if unexplained:
            problems.append(f"job {job} was done again although worker {unexplained[0]} had done it and lived")
    return problems


def _crashes(tally: Tally, books: Books) -> list[str]:
    problems: list[str] = []
    for entry in tally.crashed:
        if entry.pid not in books.killed:
            problems.append(f"job {entry.job} broke off in worker {entry.pid}, which nobody killed")
        elif not any(pid not in books.killed for pid in tally.done_by(entry.job)):
            problems.append(f"job {entry.job} of the killed worker {entry.pid} was not recovered")
    if books.killed and not tally.crashed:
        problems.append("a worker was killed in the middle of a job, but no execution broke off")
    return problems


def _sums(tally: Tally, books: Books) -> list[str]:
    sent, retried, crashed = len(books.sent), tally.endings["retry"], len(tally.crashed)
    repeated = sum(len(tally.done_by(job)) - 1 for job in tally.jobs_done)
    executions = sent + retried + books.requeued + crashed + repeated
    problems: list[str] = []
    if executions != len(tally.starts):
        problems.append(
            f"{len(tally.starts)} executions, but sent {sent} + retried {retried} + requeued {books.requeued}"
            f" + crashed {crashed} + repeated {repeated} = {executions}"
        )
    if not tally.endings["dead"] == books.dead == books.requeued:
        problems.append(
            f"dead letters: {tally.endings['dead']} on record, {books.dead} in the broker, {books.requeued} requeued"
        )
    if books.left:
        problems.append(f"{books.left} messages are left in the broker")
    problems += [f"a worker exited with {code} when asked to stop" for code in books.exits if code]
    return problems
