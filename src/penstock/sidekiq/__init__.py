"""Sidekiq for Python: its model of jobs, its data and its tools, on the same Redis as Ruby's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.data import Data as Data
    from .data.iterable_query import IterableJobQuery as IterableJobQuery
    from .data.iterable_query import IterableState as IterableState
    from .data.job_record import JobRecord as JobRecord
    from .data.job_set import DeadSet as DeadSet
    from .data.job_set import JobSet as JobSet
    from .data.job_set import RetrySet as RetrySet
    from .data.job_set import ScheduledSet as ScheduledSet
    from .data.process_set import Process as Process
    from .data.process_set import ProcessSet as ProcessSet
    from .data.profile_set import ProfileRecord as ProfileRecord
    from .data.profile_set import ProfileSet as ProfileSet
    from .data.queue import Queue as Queue
    from .data.sorted_entry import SortedEntry as SortedEntry
    from .data.stats import History as History
    from .data.stats import QueueSummary as QueueSummary
    from .data.stats import Stats as Stats
    from .data.work_set import Work as Work
    from .data.work_set import WorkSet as WorkSet

_HOME_OF = {
    "Data": "data.data",
    "DeadSet": "data.job_set",
    "History": "data.stats",
    "IterableJobQuery": "data.iterable_query",
    "IterableState": "data.iterable_query",
    "JobRecord": "data.job_record",
    "JobSet": "data.job_set",
    "Process": "data.process_set",
    "ProcessSet": "data.process_set",
    "ProfileRecord": "data.profile_set",
    "ProfileSet": "data.profile_set",
    "Queue": "data.queue",
    "QueueSummary": "data.stats",
    "RetrySet": "data.job_set",
    "ScheduledSet": "data.job_set",
    "SortedEntry": "data.sorted_entry",
    "Stats": "data.stats",
    "Work": "data.work_set",
    "WorkSet": "data.work_set",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock.sidekiq' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
