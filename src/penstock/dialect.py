"""Brokers that can speak as another library does, so that both share their streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from .broker import Broker


@runtime_checkable
class SupportsDialect(Protocol):
    """Can write and read its entries as another library does."""

    def speaking(self, dialect: str, *, dead_letters: Mapping[str, str] | None = None) -> Broker[Any]:
        """Another broker on the same system that does. Whoever asked for it closes it; this one is as before.

        ``dead_letters``: where those of a stream are kept, by stream; the dialect knows where if it does not say.
        Raises ``ConfigurationError`` for a dialect that it does not know.
        """
        ...
