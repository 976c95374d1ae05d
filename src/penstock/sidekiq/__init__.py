"""Sidekiq's model on any broker: client, middleware chains, what runs jobs; and the data of Sidekiq's own schema.

See ``penstock.job`` for jobs themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chain import Chain as Chain
    from .client import Client as Client
    from .config import Config as Config
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
    from .formatters import JSON as JSON
    from .formatters import Plain as Plain
    from .formatters import Pretty as Pretty
    from .formatters import WithoutTimestamp as WithoutTimestamp
    from .handlers import Handlers as Handlers
    from .iteration_store import RedisIterations as RedisIterations
    from .job_logger import JobLogger as JobLogger
    from .job_retry import Shutdown as Shutdown
    from .job_retry import Skip as Skip
    from .metrics import Tracker as Tracker
    from .metrics_query import MetricsQuery as MetricsQuery
    from .processor import Processor as Processor
    from .processor import ProcessorOptions as ProcessorOptions
    from .profiler import Profiler as Profiler
    from .runner import Runner as Runner
    from .setup import configuration as configuration
    from .setup import configure_client as configure_client
    from .setup import configure_server as configure_server
    from .transactions import TransactionClient as TransactionClient

_HOMES = {
    "chain": "Chain",
    "client": "Client",
    "config": "Config",
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
    "formatters": "JSON Plain Pretty WithoutTimestamp",
    "handlers": "Handlers",
    "iteration_store": "RedisIterations",
    "job_logger": "JobLogger",
    "job_retry": "Shutdown Skip",
    "metrics": "Tracker",
    "metrics_query": "MetricsQuery",
    "processor": "Processor ProcessorOptions",
    "profiler": "Profiler",
    "runner": "Runner",
    "setup": "configuration configure_client configure_server",
    "transactions": "TransactionClient",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "JSON",
    "BlockingData",
    "Chain",
    "Client",
    "Config",
    "Context",
    "Data",
    "DeadSet",
    "Handlers",
    "History",
    "IterableJobQuery",
    "IterableState",
    "JobLogger",
    "JobRecord",
    "JobSet",
    "MetricsQuery",
    "Plain",
    "Pretty",
    "Process",
    "ProcessSet",
    "Processor",
    "ProcessorOptions",
    "ProfileRecord",
    "ProfileSet",
    "Profiler",
    "Queue",
    "QueueSummary",
    "RedisIterations",
    "RetrySet",
    "Runner",
    "ScheduledSet",
    "Shutdown",
    "Skip",
    "SortedEntry",
    "Stats",
    "Tracker",
    "TransactionClient",
    "WithoutTimestamp",
    "Work",
    "WorkSet",
    "configuration",
    "configure_client",
    "configure_server",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock.sidekiq' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
