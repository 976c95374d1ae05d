"""What the log lines written here carry beside their text: ``jid``, ``class``, and what one adds."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_fields: ContextVar[dict[str, Any] | None] = ContextVar("penstock_sidekiq_context", default=None)


class Context:
    """The fields of this task or thread, and what is called from it."""

    @staticmethod
    def current() -> Mapping[str, Any]:
        """The fields."""
        return _fields.get() or {}

    @staticmethod
    @contextmanager
    def with_(values: Mapping[str, Any] | None = None, /, **more: Any) -> Generator[None]:
        """More fields within the block; after it all is as before, what was added within is gone."""
        token = _fields.set({**(_fields.get() or {}), **(values or {}), **more})
        try:
            yield
        finally:
            _fields.reset(token)

    @staticmethod
    def add(key: str, value: Any) -> None:
        """One more field until the end of the block: that of a job, as a rule. A thread or task begun within it may add too."""
        fields = _fields.get()
        if fields is None:
            _fields.set({key: value})
        else:
            fields[key] = value
