"""What a supervisor decides: pauses, recycling, and when it is of no use to go on."""

from __future__ import annotations

import itertools
import random

import pytest

from penstock.cli.link import Report
from penstock.cli.restarts import due, ending, exit_code, failures_after, hopeless, jobs_of_a_child, pause_after

DICE = random.Random(7)


def report(jobs: int, mib: float) -> Report:
    return Report(drain=25.0, ready=True, jobs=jobs, memory=int(mib * 1024 * 1024))


def test_a_first_crash_costs_no_pause_and_each_further_one_more_up_to_half_a_minute() -> None:
    pauses = [max(pause_after(failures, DICE) for _ in range(200)) for failures in range(1, 12)]

    assert 0.0 == pauses[0]
    assert all(before < after or after > 29.0 for before, after in itertools.pairwise(pauses))
    assert 29.0 < pauses[-1] <= 30.0
    assert all(pause_after(10_000, DICE) <= 30.0 for _ in range(10))


def test_pauses_differ_so_that_children_do_not_come_back_in_step() -> None:
    assert 20 < len({pause_after(5, DICE) for _ in range(50)})


def test_a_child_that_worked_for_a_while_is_forgiven_its_former_failures() -> None:
    assert 6 == failures_after(5, 59.0)
    assert 1 == failures_after(5, 60.0)


def test_a_child_that_never_was_ready_is_not_tried_again_at_once() -> None:
    assert 2 == failures_after(0, None)
    assert 0.0 < pause_after(failures_after(0, None), DICE)


def test_a_child_is_due_by_jobs_or_by_memory_but_not_before_it_has_done_anything() -> None:
    assert due(report(99, 10), 100, None) is None
    assert "jobs" == due(report(100, 10), 100, None)
    assert due(report(5, 511), None, 512.0) is None
    assert "memory" == due(report(5, 512), None, 512.0)
    assert due(report(0, 512), None, 512.0) is None
    assert due(report(10**9, 10**6), None, None) is None


def test_children_that_started_together_do_not_end_together_and_none_does_more_than_the_limit() -> None:
    limits = {jobs_of_a_child(1000, DICE) for _ in range(100)}

    assert len(limits) > 20
    assert all(limit is not None and 800 <= limit <= 1000 for limit in limits)
    assert {1} == {jobs_of_a_child(1, DICE) for _ in range(10)}
    assert jobs_of_a_child(None, DICE) is None


@pytest.mark.parametrize(
    ("code", "failed", "ever_ready", "any_ready", "expected"),
    [
        (2, 1, False, False, True),
        (-9, 1, False, False, True),
        (3, 50, False, False, False),  # the broker is waited for
        (2, 9, True, False, False),
        (2, 10, True, False, True),
        (2, 50, True, True, False),  # others work
    ],
)
def test_a_program_that_never_worked_is_given_up_and_one_that_did_only_after_many_tries(
    code: int, failed: int, ever_ready: bool, any_ready: bool, expected: bool
) -> None:
    assert expected == hopeless(code, failed, ever_ready=ever_ready, any_ready=any_ready)


def test_a_supervisor_that_gives_up_never_ends_with_zero() -> None:
    assert [2, 1, 1, 137] == [exit_code(code) for code in (2, 1, 0, -9)]


def test_endings_are_told_in_words() -> None:
    assert ["ended with code 2", "was killed by SIGKILL", "was killed by signal 250"] == [
        ending(code) for code in (2, -9, -250)
    ]
