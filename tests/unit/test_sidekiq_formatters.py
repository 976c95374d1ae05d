"""Log lines in Sidekiq's layouts."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest

from penstock.scoped_logger import ScopedLogger, at_level, scoped_logger
from penstock.sidekiq.context import Context
from penstock.sidekiq.formatters import JSON, Plain, Pretty, WithoutTimestamp, default_formatter

FIELDS = {"jid": "8e", "class": "HardJob", "tags": ["alpha", "beta"], "elapsed": 0.001}
LINE = "2026-11-21T00:10:22.893Z pid=31770 tid=nt2"


def record(level: int = logging.INFO, text: str = "done", **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("penstock.job", level, "x.py", 1, text, (), None)
    made.created, made.process = 1795219822.893, 31770
    made.thread = int("nt2", 36) ^ 31770
    made.__dict__.update(more)
    return made


def test_each_layout_is_as_ruby_writes_it() -> None:
    with Context.with_(FIELDS):
        fields = "jid=8e class=HardJob tags=alpha,beta elapsed=0.001"
        assert f"\033[1;34mINFO \033[0m {LINE} {fields}: done" == Pretty().format(record())
        assert f"INFO {LINE} {fields}: done" == Plain().format(record())
        assert f"\033[1;34mINFO \033[0m pid=31770 tid=nt2 {fields}: done" == WithoutTimestamp().format(record())
        line = '{"ts":"2026-11-21T00:10:22.893Z","pid":31770,"tid":"nt2","lvl":"INFO","msg":"done","ctx":'
        assert f"{line}{json.dumps(FIELDS, separators=(',', ':'))}}}" == JSON().format(record())


def test_without_a_context_there_is_none_in_the_line() -> None:
    assert f"INFO {LINE}: done" == Plain().format(record())
    assert "ctx" not in json.loads(JSON().format(record()))


@pytest.mark.parametrize(
    ("level", "plain", "pretty"),
    [
        (logging.DEBUG, "DEBUG", "\033[1;32mDEBUG\033[0m"),
        (logging.WARNING, "WARN", "\033[1;33mWARN \033[0m"),
        (logging.ERROR, "ERROR", "\033[1;31mERROR\033[0m"),
        (logging.CRITICAL, "FATAL", "\033[1;35mFATAL\033[0m"),
    ],
)
def test_severities_have_rubys_names_and_colours(level: int, plain: str, pretty: str) -> None:
    assert plain == Plain().format(record(level)).split(" ")[0]
    assert Pretty().format(record(level)).startswith(f"{pretty} 2026")


def test_a_traceback_follows_and_in_json_is_part_of_the_message() -> None:
    try:
        raise OSError("boom")
    except OSError:
        info = sys.exc_info()
    assert "OSError: boom" == Plain().format(record(exc_info=info)).splitlines()[-1]
    line = JSON().format(record(exc_info=info))
    assert "\n" not in line
    assert json.loads(line)["msg"].endswith("OSError: boom")


def test_what_json_has_no_type_for_is_written_as_text() -> None:
    with Context.with_({"error": OSError("x")}):
        assert {"error": "x"} == json.loads(JSON().format(record()))["ctx"]


def test_the_context_of_an_error_is_in_its_line() -> None:
    text = Plain().format(record(text="x", context={"context": "Job raised exception"}))
    assert f"INFO {LINE} context=Job raised exception: x" == text


async def test_within_a_task_the_line_names_the_task() -> None:
    async def line() -> str:
        return Plain().format(record()).split("tid=")[1]

    assert 2 == len(set(await asyncio.gather(asyncio.create_task(line()), asyncio.create_task(line()))))


def test_heroku_writes_the_time_itself() -> None:
    assert isinstance(default_formatter({"DYNO": "web.1"}), WithoutTimestamp)
    assert isinstance(default_formatter({}), Pretty)


def test_a_level_holds_within_its_block_and_is_another_before_and_after(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogger("penstock.tests.scoped")
    logger = scoped_logger("penstock.tests.scoped")
    assert before is logger
    assert isinstance(logger, ScopedLogger)
    caplog.set_level("ERROR", logger=logger.name)
    caplog.handler.setLevel(0)
    logger.warning("before")
    with at_level("debug"):
        logger.debug("within")
        with at_level("warn"):
            logger.debug("not within")
    logger.warning("after")
    assert ["within"] == [each.message for each in caplog.records]
    with at_level("loud"):  # there is none such
        logger.warning("not within either")
    assert ["within"] == [each.message for each in caplog.records]


def test_a_logger_of_somebodys_own_class_stays_as_it_is() -> None:
    class Own(logging.Logger): ...

    logging.setLoggerClass(Own)
    try:
        own = logging.getLogger("penstock.tests.own")
    finally:
        logging.setLoggerClass(logging.Logger)
    assert own is scoped_logger("penstock.tests.own")
    assert Own is type(own)
