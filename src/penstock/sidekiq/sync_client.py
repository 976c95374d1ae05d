"""The client for code without a loop. Calls of all threads share the loop and the connections of ``penstock.portal``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from ..broker import Broker
from ..portal import Portal, shared

R = TypeVar("R")

PATIENCE: Final = 30.0  # seconds; a call waits no longer


class AsyncClient(Protocol):
    """What is called on the other side."""

    broker: Broker[Any]

    async def push(self, item: Mapping[str, Any]) -> str | None: ...

    async def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]: ...

    async def perform_inline(self, item: Mapping[str, Any]) -> bool | None: ...

    async def cancel(self, jid: str) -> int: ...


class SyncClient:
    """Each call waits for its answer, and may be made from any thread. See ``Client`` for what the methods do."""

    def __init__(self, original: AsyncClient, on: Callable[[Broker[Any]], AsyncClient]) -> None:
        self._original, self._on = original, on
        self._made: tuple[Portal, AsyncClient] | None = None

    def push(self, item: Mapping[str, Any]) -> str | None:
        """Enqueue one job."""
        return self._call(lambda own: own.push(item))

    def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]:
        """Enqueue many jobs of one class."""
        args: Any = items.get("args")
        # Here: a generator of the caller's belongs on the caller's thread
        listed: Mapping[str, Any] = {**items, "args": [*args]} if _is_lazy(args) else items
        return self._call(lambda own: own.push_bulk(listed), None)

    def perform_inline(self, item: Mapping[str, Any]) -> bool | None:
        """Run a job here and now, however long it takes."""
        return self._call(lambda own: own.perform_inline(item), None)

    def cancel(self, jid: str) -> int:
        """Ask an iterable job to end."""
        return self._call(lambda own: own.cancel(jid))

    def _call(self, method: Callable[[AsyncClient], Coroutine[Any, Any, R]], patience: float | None = PATIENCE) -> R:
        portal = shared()

        async def work() -> R:
            if self._made is None or self._made[0] is not portal:  # the first call here, or since a fork
                fork = portal.fork(self._original.broker)
                self._made = portal, self._on(fork)
                weakref.finalize(self, portal.release, fork)
            return await method(self._made[1])

        return portal.call(work, patience)


def _is_lazy(args: Any) -> bool:
    return isinstance(args, Iterable) and not isinstance(args, list | str | bytes | Mapping)
