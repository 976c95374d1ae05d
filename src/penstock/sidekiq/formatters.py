"""Log lines in Sidekiq's four layouts, with the fields of the context in which they are written."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from .context import Context

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NAMES: Final = {logging.WARNING: "WARN", logging.CRITICAL: "FATAL"}
_COLOURS: Final = {"DEBUG": "1;32", "INFO": "1;34", "WARN": "1;33", "ERROR": "1;31", "FATAL": "1;35"}


class _Layout(logging.Formatter, ABC):
    """What the layouts have in common; a traceback follows below the line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's name
        return self.line(record, _fields(record))

    @abstractmethod
    def line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str: ...


class Pretty(_Layout):
    """With colours, for terminals."""

    def line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
        return f"{_coloured(record)} {_time(record)} {_place(record)}{_rendered(fields)}: {record.message}"


class WithoutTimestamp(_Layout):
    """For platforms that put a time before each line themselves."""

    def line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
        return f"{_coloured(record)} {_place(record)}{_rendered(fields)}: {record.message}"


class Plain(_Layout):
    """For files and pipes."""

    def line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
        return f"{_severity(record)} {_time(record)} {_place(record)}{_rendered(fields)}: {record.message}"


class JSON(logging.Formatter):
    """One JSON object a line; a traceback is in its ``msg``."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        line: dict[str, Any] = {
            "ts": _time(record),
            "pid": record.process,
            "tid": _tid(record),
            "lvl": _severity(record),
            "msg": text,
        }
        fields = _fields(record)
        if fields:
            line["ctx"] = fields
        return msgspec.json.encode(line, enc_hook=str).decode()


def default_formatter(environ: Mapping[str, str]) -> logging.Formatter:
    """The layout for where the process runs: Heroku and its like write the time themselves."""
    return WithoutTimestamp() if environ.get("DYNO") else Pretty()


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    extra: Any = getattr(record, "context", None)
    fields = Context.current()
    return {**fields, **cast("dict[str, Any]", extra)} if isinstance(extra, dict) else fields


def _rendered(fields: Mapping[str, Any]) -> str:
    return "".join(f" {name}={_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    return ",".join(map(str, cast("list[Any]", value))) if isinstance(value, list | tuple) else str(value)


def _coloured(record: logging.LogRecord) -> str:
    name = _severity(record)
    return f"\033[{_COLOURS.get(name, '0')}m{name:<5}\033[0m"


def _severity(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _place(record: logging.LogRecord) -> str:
    return f"pid={record.process} tid={_tid(record)}"


def _tid(record: logging.LogRecord) -> str:
    """A short name of the task, or of the thread where there is none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    number = (id(task) if task is not None else record.thread or threading.get_ident()) ^ (record.process or 0)
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
