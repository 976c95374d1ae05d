"""Log lines of a worker: JSON that a machine can read, and the fields of the running job in both formats."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Context
from penstock.cli.logs import configure
from penstock.config import Settings
from penstock.context import enter
from penstock.contrib.json_logs import JobFields, JsonFormatter

JOB = {"stream": "emails", "type": "email.send", "id": "1-0", "attempt": 2}


@pytest.fixture
def job() -> Iterator[None]:
    enter(
        Context(
            id="1-0",
            type="email.send",
            stream="emails",
            group="g",
            worker="host:1:a",
            attempt=2,
            max_attempts=5,
            key=None,
            headers={},
            enqueued_at=None,
        )
    )
    yield
    enter(None)


def record(message: str = "hello %s", *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("app").makeRecord(
        "app", logging.INFO, "file.py", 1, message, args or ("you",), None, extra=extra
    )
    JobFields().filter(made)
    return made


def test_a_line_is_one_json_object_in_utc() -> None:
    made = record()
    made.created = 0.0

    assert {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "app",
        "message": "hello you",
    } == json.loads(JsonFormatter().format(made))


@pytest.mark.usefixtures("job")
def test_a_line_logged_inside_a_handler_says_which_job_it_is_about() -> None:
    line = json.loads(JsonFormatter().format(record()))

    assert JOB == {name: line[name] for name in JOB}


@pytest.mark.usefixtures("job")
def test_fields_that_the_record_brings_along_win() -> None:
    line = json.loads(JsonFormatter().format(record(stream="other", colour="red")))

    assert ("other", "red", "1-0") == (line["stream"], line["colour"], line["id"])


def test_an_exception_and_what_json_cannot_say_cost_no_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record(value={1, 2}.__class__)
        made.exc_info = sys.exc_info()

    text = JsonFormatter().format(made)

    assert "\n" not in text
    assert "ValueError: two" in json.loads(text)["exception"]
    assert "<class 'set'>" == json.loads(text)["value"]


def test_extra_fields_cannot_overwrite_the_line_itself() -> None:
    made = record()
    made.level = "fake"  # type: ignore[attr-defined]

    assert "info" == json.loads(JsonFormatter().format(made))["level"]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("job", "root_logger")
@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_workers_logging_goes_to_stdout_in_the_chosen_format(
    capsys: pytest.CaptureFixture[str], format_: Any
) -> None:
    configure(Settings(log_format=format_, log_level="warning"))
    logging.getLogger("app").info("unheard")
    logging.getLogger("app").warning("heard")

    (line,) = capsys.readouterr().out.splitlines()
    if format_ == "json":
        assert {"message": "heard", **JOB}.items() <= json.loads(line).items()
    else:
        assert line.endswith("WARNING app: heard [stream=emails type=email.send id=1-0 attempt=2]")
