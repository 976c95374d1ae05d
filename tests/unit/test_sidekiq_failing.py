"""What a failure leaves in a job: byte for byte what Ruby left of the same failure (``tests/data/sidekiq_*.json``)."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from penstock.brokers.sidekiq import ruby_json
from penstock.brokers.sidekiq.failing import Failing, backtrace, message_text
from penstock.brokers.sidekiq.wire import seconds

DATA = Path(__file__).parent.parent / "data"
WRITTEN = ("error_message", "error_class", "failed_at", "retry_count", "retried_at", "error_backtrace")
LONG = "0123456789" * 1001 + "tail"  # what Ruby's job raised; it kept less


def failures(version: str) -> list[Any]:
    """Jobs in ``retry`` and ``dead`` after a failure of theirs, with the scenario that they are of."""
    found: list[Any] = []
    for vector in json.loads((DATA / f"sidekiq_{version}.json").read_text("utf-8")):
        if not vector["scenario"].startswith("api_") and "prune" not in vector["scenario"]:
            for name in ("retry", "dead"):
                for member, _ in vector["keys"].get(name, {}).get("members", ()):
                    if '"error_class"' in member:
                        found.append(pytest.param(version, member, id=f"{version}-{vector['scenario']}-{len(found)}"))
    return found


@pytest.mark.parametrize(("version", "member"), [*failures("8"), *failures("6_4")])
def test_a_failure_is_written_into_a_job_as_ruby_writes_it(version: str, member: str):
    job = json.loads(member)
    second = "retried_at" in job
    new = {"error_message", "error_class", "error_backtrace", *(["retried_at"] if second else WRITTEN)}
    before = {name: value for name, value in job.items() if name not in new or (second and name in WRITTEN[:2])}
    if "retry_queue" in job:
        before["queue"] = "default"
    if second:
        before |= {"retry_count": job["retry_count"] - 1, "error_message": "another", "error_class": "Another"}
    text = LONG if job["error_message"].startswith("0123456789") else job["error_message"]
    error = type(job["error_class"], (Exception,), {})(text)
    now = job["retried_at" if second else "failed_at"]
    failing = Failing("ms" if version == "8" else "float")

    raw = failing.failed(
        ruby_json.dumps(before), "default", job["retry_count"], error, now / 1000 + 0.0001 if version == "8" else now
    )

    expected = ruby_json.dumps({name: value for name, value in job.items() if name != "error_backtrace"}).decode()
    if "error_backtrace" not in job:
        assert expected == raw.decode()
    else:
        ours = json.loads(raw)
        lines = json.loads(zlib.decompress(base64.b64decode(ours.pop("error_backtrace"))))
        assert ([], expected) == (lines, ruby_json.dumps(ours).decode())  # it was raised nowhere


def raised(depth: int = 3) -> Exception:
    def deeper(left: int) -> None:
        if not left:
            raise ValueError("here")
        deeper(left - 1)

    try:
        deeper(depth)
    except ValueError as error:
        return error
    raise AssertionError


def test_the_innermost_frame_comes_first():
    lines = backtrace(raised())
    assert (5, "in `raised'") == (len(lines), lines[-1].rpartition(":")[2])
    assert all(line.endswith("in `deeper'") for line in lines[:-1])
    assert __file__ == lines[0].split(":")[0]
    assert int(lines[0].split(":")[1]) < int(lines[1].split(":")[1])  # the raise stands above the call


@pytest.mark.parametrize(("wish", "kept"), [(True, 5), (2, 2), (100, 5), (0, None), (False, None), ("all", 0)])
def test_as_many_lines_are_kept_as_the_job_wants(wish: Any, kept: int | None):
    raw = ruby_json.dumps({"class": "A", "args": [], "backtrace": wish})
    job = json.loads(Failing("ms").failed(raw, "q", 0, raised(), 1.0))
    if kept == 0 or kept:
        assert kept == len(json.loads(zlib.decompress(base64.b64decode(job["error_backtrace"]))))
    else:
        assert "error_backtrace" not in job


def test_a_cleaner_sees_the_lines_and_one_that_fails_changes_nothing():
    raw = b'{"class":"A","args":[],"backtrace":true}'

    def lines(cleaner: Any) -> list[str]:
        job = json.loads(Failing("ms", cleaner).failed(raw, "q", 0, raised(), 1.0))
        found: list[str] = json.loads(zlib.decompress(base64.b64decode(job["error_backtrace"])))
        return found

    assert ["only this"] == lines(lambda _: ["only this"])
    assert 5 == len(lines(lambda given: given[99]))


class Speechless(Exception):
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x" * 10_001), "x" * 10_000),
        (ValueError("half \ud800 a pair"), "half ? a pair"),
        (Speechless(), "!!! ERROR MESSAGE THREW AN ERROR !!!"),
        (None, "the handler asked for it"),
    ],
)
def test_what_an_error_says_can_be_borne_by_any_reader(error: Exception | None, text: str):
    assert text == message_text(error)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1795227213272", 1795227213.272), ("1795227213.5", 1795227213.5), ("1795227213", 1795227213.0), ('"5.5"', 5.5)],
)
def test_a_time_is_read_whoever_wrote_it(written: str, meant: float):
    assert meant == seconds(Raw(written.encode()))
