"""Logging of a process that serves: one handler, on stdout, with the fields of the running job."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ..config import Settings
from ..contrib.json_logs import JOB_FIELDS, JobFields, JsonFormatter


class TextFormatter(logging.Formatter):
    """A line for people; the running job's fields stand behind the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 the standard library's name
        """The line without a traceback."""
        values = record.__dict__
        fields = " ".join(f"{name}={values[name]}" for name in JOB_FIELDS if name in values)
        line = super().formatMessage(record)
        return f"{line} [{fields}]" if fields else line


def configure(settings: Settings) -> None:
    """Log to stdout from now on. A command line owns its process, so this is the root logger."""
    handler: logging.StreamHandler[Any] = logging.StreamHandler(sys.stdout)
    handler.addFilter(JobFields())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
