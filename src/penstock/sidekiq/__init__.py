"""Sidekiq for Python: its model of jobs, its data and its tools, on the same Redis as Ruby's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.data import Data as Data
    from .data.job_record import JobRecord as JobRecord
    from .data.job_set import DeadSet as DeadSet
    from .data.job_set import JobSet as JobSet
    from .data.job_set import RetrySet as RetrySet
    from .data.job_set import ScheduledSet as ScheduledSet
    from .data.queue import Queue as Queue
    from .data.sorted_entry import SortedEntry as SortedEntry

_HOME_OF = {
    "Data": "data.data",
    "DeadSet": "data.job_set",
    "JobRecord": "data.job_record",
    "JobSet": "data.job_set",
    "Queue": "data.queue",
    "RetrySet": "data.job_set",
    "ScheduledSet": "data.job_set",
    "SortedEntry": "data.sorted_entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock.sidekiq' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
