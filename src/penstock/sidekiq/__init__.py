"""Sidekiq's model on any broker: client, middleware chains, context. See ``penstock.job`` for jobs themselves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chain import Chain as Chain
    from .client import Client as Client
    from .context import Context as Context
    from .transactions import TransactionClient as TransactionClient

_HOMES = {
    "chain": "Chain",
    "client": "Client",
    "context": "Context",
    "transactions": "TransactionClient",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = ["Chain", "Client", "Context", "TransactionClient"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock.sidekiq' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
