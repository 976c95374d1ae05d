"""Sidekiq's model on any broker: client, middleware chains, and what runs jobs. See ``penstock.job`` for jobs themselves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chain import Chain as Chain
    from .client import Client as Client
    from .config import Config as Config
    from .context import Context as Context
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
    "runner": "Runner",
    "setup": "configuration configure_client configure_server",
    "formatters": "JSON Plain Pretty WithoutTimestamp",
    "handlers": "Handlers",
    "iteration_store": "RedisIterations",
    "job_logger": "JobLogger",
    "job_retry": "Shutdown Skip",
    "metrics": "Tracker",
    "metrics_query": "MetricsQuery",
    "processor": "Processor ProcessorOptions",
    "profiler": "Profiler",
    "transactions": "TransactionClient",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "JSON",
    "Chain",
    "Client",
    "Config",
    "Context",
    "Handlers",
    "JobLogger",
    "MetricsQuery",
    "Plain",
    "Pretty",
    "Processor",
    "ProcessorOptions",
    "Profiler",
    "RedisIterations",
    "Runner",
    "Shutdown",
    "Skip",
    "Tracker",
    "TransactionClient",
    "WithoutTimestamp",
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
