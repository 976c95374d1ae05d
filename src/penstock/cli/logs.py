"""Logging of a process that serves: one handler, on stdout, with the fields of the running job."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ..config import Settings
from ..contrib.json_logs import JOB_FIELDS, JobFields, JsonFormatter


class TextFormatter(logging.Formatter):
    """A line for people; the running job's fields stand behind the message."""

    def __init__(self, *, pid: bool = False) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {'[%(process)d] ' if pid else ''}%(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 the standard library's name
        """The line without a traceback."""
        values = record.__dict__
        fields = " ".join(f"{name}={values[name]}" for name in JOB_FIELDS if name in values)
        line = super().formatMessage(record)
        return f"{line} [{fields}]" if fields else line


class ProcessId(logging.Filter):
    """Gives every record the field ``pid``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See the class."""
        record.pid = record.process
        return True


def configure(settings: Settings, *, pid: bool = False) -> None:
    """Log to stdout from now on. A command line owns its process, so this is the root logger.

    ``pid``: every line says which process it is from, where several share an output.
    """
    handler: logging.StreamHandler[Any] = logging.StreamHandler(sys.stdout)
    handler.addFilter(JobFields())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter(pid=pid))
    if pid and settings.log_format == "json":
        handler.addFilter(ProcessId())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
