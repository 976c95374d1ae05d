"""Sidekiq's model on any broker: client, middleware chains, context. See ``penstock.job`` for jobs themselves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chain import Chain as Chain
    from .client import Client as Client
    from .config import Config as Config
    from .context import Context as Context
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
    "transactions": "TransactionClient",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Chain",
    "Client",
    "Config",
    "Context",
    "Runner",
    "TransactionClient",
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
