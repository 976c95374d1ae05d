"""The demo's sums: honest books add up, and each way of tampering with them is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.cli import codes
from penstock.cli import demo as demo_module
from penstock.cli.demo_record import Books, Entry, Record, Summary, Tally, read, summarize
from penstock.cli.root import run

KILLED, ALIVE = 100, 200


def execution(run: str, job: int, ending: Any, *, pid: int = ALIVE, attempt: int = 0) -> list[Entry]:
    begin = Entry(run, pid, job, attempt, 0.0)
    return [begin] if ending is None else [begin, replace(begin, ending=ending)]


def honest() -> list[Entry]:
    """Job 0 is retried, 1 dies and is requeued, 2 crashes, 3 was done but its worker died before saying so."""
    return [
        *execution("a", 0, "retry"),
        *execution("b", 0, "done", attempt=1),
        *execution("c", 1, "dead"),
        *execution("d", 2, None, pid=KILLED),
        *execution("e", 3, "done", pid=KILLED),
        *execution("f", 2, "done", attempt=1),
        *execution("g", 3, "done", attempt=1),
        *execution("h", 1, "done"),
    ]


def books(**changes: Any) -> Books:
    return Books(
        **{
            "sent": [0, 1, 2, 3],
            "dead": 1,
            "requeued": 1,
            "left": 0,
            "killed": frozenset({KILLED}),
            "exits": [0, 0],
            **changes,
        }
    )


def summary(entries: list[Entry], **changes: Any) -> Summary:
    tally = Tally()
    tally.add(entries)
    return summarize(tally, books(**changes), 1.0)


def test_honest_books_add_up() -> None:
    found = summary(honest())

    assert [] == found.problems
    assert (4, 5, 8, 1, 1, 1, 1, 1) == (
        found.sent,
        found.done,
        found.executions,
        found.retried,
        found.dead,
        found.requeued,
        found.crashed,
        found.repeated,
    )


# But the end of an execution whose worker was killed: without that line it is a crash like any other
@pytest.mark.parametrize("missing", [n for n, e in enumerate(honest()) if not (e.pid == KILLED and e.ending)])
def test_no_line_can_be_taken_out_of_the_record_unnoticed(missing: int) -> None:
    entries = honest()
    del entries[missing]

    assert summary(entries).problems


@pytest.mark.parametrize("doubled", range(len(honest())))
def test_no_line_can_be_doubled_unnoticed(doubled: int) -> None:
    entries = honest()
    entries.insert(doubled, entries[doubled])

    assert summary(entries).problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sent": [0, 1, 2, 3, 4]}, "job 4 was sent and never done"),
        ({"sent": [0, 1, 2]}, "job 3 was done and never sent"),
        ({"sent": [0, 1, 2, 3, 3]}, "sent a job twice"),
        ({"dead": 2}, "2 in the broker"),
        ({"requeued": 0}, "0 requeued"),
        ({"left": 1}, "1 messages are left"),
        ({"exits": [0, 1]}, "exited with 1"),
        ({"killed": frozenset()}, "which nobody killed"),
        ({"killed": frozenset({KILLED, ALIVE})}, "was not recovered"),
    ],
)
def test_whatever_somebody_else_counted_differently_is_named(changes: dict[str, Any], problem: str) -> None:
    assert any(problem in each for each in summary(honest(), **changes).problems)


def test_a_job_done_twice_by_living_workers_is_no_accident() -> None:
    entries = [*honest(), *execution("x", 0, "done", attempt=2)]

    assert any("had done it and lived" in each for each in summary(entries).problems)


def test_a_kill_that_broke_nothing_off_proves_nothing() -> None:
    entries = [entry for entry in honest() if entry.run != "d"]

    assert any("no execution broke off" in each for each in summary(entries).problems)


def test_what_is_written_can_be_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert ([], 0) == read(path)
    record = Record(path)

    begun = record.start(7, 1)
    first, offset = read(path)
    record.end(begun, "done")
    with path.open("ab") as file:
        file.write(b'{"run":"torn')
    second, _ = read(path, offset)

    assert [begun] == first
    assert [(7, 1, "done")] == [(entry.job, entry.attempt, entry.ending) for entry in second]


@pytest.mark.parametrize(("problems", "code"), [([], codes.OK), (["job 3 was sent and never done"], codes.FAILED)])
def test_the_demo_fails_when_its_numbers_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problems: list[str], code: int
) -> None:
    async def perform(*_: object) -> Summary:
        return replace(summary(honest()), problems=problems)

    monkeypatch.setattr(demo_module, "_perform", perform)

    assert code == run(["demo"])
    assert [each for each in problems if each not in capsys.readouterr().out] == []
