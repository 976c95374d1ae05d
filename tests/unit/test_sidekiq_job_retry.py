"""The decisions about a job that failed: each behaviour that Ruby's own tests of retries hold."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from penstock import job
from penstock.sidekiq import job_retry
from penstock.sidekiq.job_retry import Shutdown, Verdict, call_hook, caused_by_shutdown, verdict

NOW = 1_795_227_213.272
JOB = {"retry": True, "queue": "default", "args": [1], "class": "FailJob", "jid": "1590f30ec0eb3b7fd7d9247c"}


def failed(job: dict[str, Any], error: BaseException, count: int = 0, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"queue": "default", "count": count, "now": NOW, "timestamps": "ms", **more}
    return job_retry.failed(job, error, **given)


def exhausted(job: dict[str, Any], options: dict[str, Any] | None = None) -> bool:
    return job_retry.is_exhausted(job, options or {}, now=NOW, max_retries=25)


class NoDice(Random):
    def randrange(self, *_: Any) -> int:
        return 0


def test_the_first_failure_is_written_into_the_payload_and_leaves_the_job_itself_alone() -> None:
    before = dict(JOB)
    assert {
        **JOB,
        "error_message": "boom",
        "error_class": "RuntimeError",
        "failed_at": 1795227213272,
        "retry_count": 0,
    } == failed(JOB, RuntimeError("boom"))
    assert before == JOB


def test_a_later_failure_keeps_the_time_of_the_first() -> None:
    again = {**JOB, "failed_at": 1795227200000, "retry_count": 10}
    marked = failed(again, RuntimeError("boom"), count=11)
    assert (1795227200000, 1795227213272, 11) == (marked["failed_at"], marked["retried_at"], marked["retry_count"])


def test_times_are_seconds_for_older_readers_if_asked_for() -> None:
    assert NOW == failed(JOB, RuntimeError("x"), timestamps="float")["failed_at"]


def test_a_job_goes_to_its_retry_queue_or_to_the_one_it_was_taken_from() -> None:
    assert "low" == failed({**JOB, "retry_queue": "low"}, OSError())["queue"]
    assert "critical" == failed(JOB, OSError(), queue="critical")["queue"]


@pytest.mark.parametrize(
    ("said", "written"),
    [("x" * 10_014, "x" * 10_000), ("bad \ud800 half", "bad ? half"), ("größe 🚀\n\x01", "größe 🚀\n\x01"), ("", "")],
)
def test_a_message_is_cut_and_made_readable(said: str, written: str) -> None:
    assert written == failed(JOB, RuntimeError(said))["error_message"]


def test_an_error_that_cannot_say_what_it_is_keeps_its_name() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert "!!! ERROR MESSAGE THREW AN ERROR !!!" == failed(JOB, Mute())["error_message"]
    sound = job_retry.recordable(Mute())
    assert ("Mute", "!!! ERROR MESSAGE THREW AN ERROR !!!") == (type(sound).__name__, str(sound))
    plain = OSError("x")
    assert job_retry.recordable(plain) is plain


@pytest.mark.parametrize(
    ("job", "options", "retried"),
    [
        ({"retry": False}, {}, False),
        ({"retry": 5}, {"retry": False}, True),
        ({"retry": True}, {"retry": False}, True),
        ({}, {"retry": False}, False),
        ({}, {"retry": 3}, True),
        ({}, {}, True),
        ({"retry": None}, {"retry": False}, False),
    ],
)
def test_what_the_job_does_not_say_about_retries_its_class_says(
    job: dict[str, Any], options: dict[str, Any], retried: bool
) -> None:
    assert retried == job_retry.is_retried(job, options)


def test_no_retries_at_all_is_exhausted_at_once() -> None:
    assert job_retry.is_retried({"retry": 0}, {})
    assert exhausted({"retry": 0, "retry_count": 0})


@pytest.mark.parametrize(
    ("retry", "count", "over"),
    [(True, 24, False), (True, 25, True), (5, 4, False), (5, 5, True), (1, 0, False), (1, 1, True), (0, 0, True)],
)
def test_a_job_is_exhausted_when_it_has_had_its_retries(retry: Any, count: int, over: bool) -> None:
    assert over == exhausted({"retry": retry, "retry_count": count})


def test_the_limit_of_the_configuration_and_of_the_class_hold_where_the_job_says_none() -> None:
    job = {"retry": True, "retry_count": 3}
    assert job_retry.is_exhausted(job, {}, now=NOW, max_retries=3)
    assert exhausted({"retry_count": 2}, {"retry": 2})
    assert not exhausted({"retry_count": 1}, {"retry": 2})


@pytest.mark.parametrize(
    ("job", "over"),
    [
        ({"retry_for": 3600, "retry_count": 1, "failed_at": int((NOW - 3601) * 1000)}, True),
        ({"retry_for": 3600, "retry_count": 1, "failed_at": NOW - 3601}, True),
        ({"retry_for": 3600, "retry_count": 1, "failed_at": int((NOW - 3599) * 1000)}, False),
        ({"retry_for": 3600, "retry_count": 90, "retry": 2, "failed_at": NOW - 5}, False),
        ({"retry_for": 3600, "retry_count": 0, "failed_at": NOW}, False),
        ({"retry_for": 3600, "retry_count": 1, "retry": 2}, False),
        ({"retry_for": 3600, "retry_count": 2, "retry": 2}, True),
        ({"retry_for": 0, "retry_count": 0, "retry": 2, "failed_at": int(NOW * 1000)}, True),
        ({"retry_for": "soon", "retry_count": 2, "retry": 2, "failed_at": NOW}, True),
        ({"retry_for": "soon", "retry_count": 1, "retry": 2, "failed_at": NOW}, False),
    ],
)
def test_retry_for_counts_time_and_not_retries_where_a_time_is_known(job: dict[str, Any], over: bool) -> None:
    assert over == exhausted(job)


@pytest.mark.parametrize(
    ("count", "delay"),
    [(0, 15), (1, 16), (2, 31), (3, 96), (5, 640), (10, 10_015), (15, 50_640), (20, 160_015), (24, 331_791)],
)
def test_the_default_wait_grows_with_the_fourth_power(count: int, delay: int) -> None:
    assert Verdict("again", delay) == verdict(None, count, NoDice())


@pytest.mark.parametrize("answer", [None, 20, 3600])
def test_the_dice_add_less_than_ten_seconds_for_each_failure_so_far(answer: int | None) -> None:
    dice, count = Random(4), 3
    base = 96 if answer is None else answer
    waits = {verdict(answer, count, dice).delay - base for _ in range(2000)}
    assert set(range(40)) == waits


@pytest.mark.parametrize(
    ("answer", "delay"),
    [
        (10, 10),
        (2.9, 2),
        (timedelta(minutes=2), 120),
        ("30", 30),
        (0, 15),
        (-5, 15),
        (True, 15),
        ("soon", 15),
        (float("nan"), 15),
        (float("inf"), 15),
        (object(), 15),
    ],
)
def test_an_answer_that_is_no_time_to_come_leaves_the_default(answer: Any, delay: int) -> None:
    assert Verdict("again", delay) == verdict(answer, 0, NoDice())


def test_a_hook_may_send_the_job_elsewhere() -> None:
    assert Verdict("discard") == verdict(job.DISCARD, 0, NoDice())
    assert Verdict("exhausted") == verdict(job.KILL, 0, NoDice())


@pytest.mark.parametrize(
    ("job", "answer", "kept"),
    [
        ({}, None, True),
        ({"dead": True}, None, True),
        ({"dead": None}, None, True),
        ({"dead": False}, None, False),
        ({}, "discard", False),
        ({}, "kill", True),
    ],
)
def test_an_exhausted_job_is_kept_unless_somebody_says_no(job: dict[str, Any], answer: Any, kept: bool) -> None:
    assert kept == job_retry.is_kept(job, answer)


def test_what_is_discarded_says_when() -> None:
    assert {"jid": "1", "discarded_at": 1795227213272} == job_retry.discarded({"jid": "1"}, NOW, "ms")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (1795227213272, 1795227213.272),
        (1795227213.25, 1795227213.25),
        (1795227213, 1795227213.0),
        (None, None),
        ("x", None),
        (True, None),
        (float("nan"), None),
    ],
)
def test_times_of_either_kind_are_read(time: Any, seconds: float | None) -> None:
    assert seconds == job_retry.seconds(time)


def raised(make: Any) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError


def test_a_shutdown_is_known_through_whatever_it_causes() -> None:
    def chained() -> None:
        try:
            try:
                raise Shutdown
            except Shutdown as error:
                raise ValueError("one") from error
        except ValueError:
            raise OSError("two")  # noqa: B904 the implicit chain is what is looked at

    assert caused_by_shutdown(Shutdown(), stopping=False)
    assert caused_by_shutdown(raised(chained), stopping=False)
    assert not caused_by_shutdown(OSError(), stopping=True)


def test_a_cancellation_is_a_shutdown_only_if_somebody_else_cancelled() -> None:
    assert caused_by_shutdown(asyncio.CancelledError(), stopping=True)
    assert not caused_by_shutdown(asyncio.CancelledError(), stopping=False)


def test_causes_that_go_round_in_a_circle_come_to_an_end() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert not caused_by_shutdown(one, stopping=True)


def test_a_hook_gets_as_many_arguments_as_it_takes() -> None:
    assert 1 == call_hook(lambda: 1, 0, OSError(), {})
    assert 3 == call_hook(lambda count: count, 3, OSError(), {})
    assert [3, "e", "p"] == call_hook(lambda *all_: list(all_), 3, "e", "p")
    assert (3, "e", "p") == call_hook(lambda count, error, payload: (count, error, payload), 3, "e", "p")
    assert 7 == call_hook(int, "7")
