"""Sidekiq's model on any broker: client, middleware chains, context, and the data of
Sidekiq's own schema. See ``penstock.job`` for jobs themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chain import Chain as Chain
    from .client import Client as Client
    from .context import Context as Context
    from .data.blocking import BlockingData as BlockingData
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
    from .transactions import TransactionClient as TransactionClient

_HOMES = {
    "chain": "Chain",
    "client": "Client",
    "context": "Context",
    "data.blocking": "BlockingData",
    "data.data": "Data",
    "data.iterable_query": "IterableJobQuery IterableState",
    "data.job_record": "JobRecord",
    "data.job_set": "DeadSet JobSet RetrySet ScheduledSet",
    "data.process_set": "Process ProcessSet",
    "data.profile_set": "ProfileRecord ProfileSet",
    "data.queue": "Queue",
    "data.sorted_entry": "SortedEntry",
    "data.stats": "History QueueSummary Stats",
    "data.work_set": "Work WorkSet",
    "transactions": "TransactionClient",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "BlockingData",
    "Chain",
    "Client",
    "Context",
    "Data",
    "DeadSet",
    "History",
    "IterableJobQuery",
    "IterableState",
    "JobRecord",
    "JobSet",
    "Process",
    "ProcessSet",
    "ProfileRecord",
    "ProfileSet",
    "Queue",
    "QueueSummary",
    "RetrySet",
    "ScheduledSet",
    "SortedEntry",
    "Stats",
    "TransactionClient",
    "Work",
    "WorkSet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock.sidekiq' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
