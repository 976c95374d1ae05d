"""Log lines that say which job they are about: a filter that knows, and a formatter that writes JSON.

One line, one object: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, the job's ``stream``, ``type``,
``id`` and ``attempt`` when there is one, whatever else was handed over as ``extra``, and ``exception``.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from ..context import current

JOB_FIELDS = ("stream", "type", "id", "attempt")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JobFields(logging.Filter):
    """Gives every record the fields of the job that runs where it was logged, unless it has its own.

    Put it on the handler: there it sees the records of all libraries. It never rejects a record.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See the class."""
        job = current()
        if job is not None:
            for name, value in job.fields().items():
                if not hasattr(record, name):
                    setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line. What JSON cannot say is written as its ``repr``."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        line.update((name, extra.pop(name)) for name in JOB_FIELDS if name in extra)
        line.update((name, value) for name, value in extra.items() if name not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=repr, ensure_ascii=False)
