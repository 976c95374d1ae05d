"""A broker around a broker: what the tools that disturb one have in common.

Every verb passes ``around``; a subclass decides there what happens before, after or instead. The optional protocols
that the inner broker supports are supported by the wrapper too, and no others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self

from ..broker import Broker, Capabilities, Outgoing, Settlement, Subscription
from ..message import Delivery

OPTIONAL = (
    "promote_due", "reclaim", "ghosts", "trim", "beat", "leave", "processes", "diagnose", "pause", "resume", "paused",
    "publish_in", "ack_in", "transaction", "sources", "stats", "peek", "dead", "requeue_dead", "purge_dead", "purge",
)  # fmt: skip


class WrappedBroker:
    """Passes everything on."""

    def __init__(self, inner: Broker[Any]) -> None:
        self.inner = inner
        for verb in OPTIONAL:
            if hasattr(inner, verb):
                # On the instance, where isinstance() with a runtime protocol looks for it
                setattr(self, verb, partial(self._call, verb))

    async def around(self, verb: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Make the call, or whatever a subclass wants to happen instead."""
        return await call()

    def around_fork(self, fork: Broker[Any]) -> Self:
        """A wrapper for a fork of the inner broker."""
        return type(self)(fork)

    async def _call(self, verb: str, *args: Any, **options: Any) -> Any:
        return await self.around(verb, partial(getattr(self.inner, verb), *args, **options))

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def identity(self) -> str:
        return self.inner.identity

    def fork(self) -> Self:
        return self.around_fork(self.inner.fork())

    async def open(self) -> None:
        await self._call("open")

    async def close(self) -> None:
        await self._call("close")

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        found: Sequence[str] = await self._call("publish", messages)
        return found

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
        found: Sequence[Delivery[Any]] = await self._call("fetch", subscription, limit, wait)
        return found

    async def settle(self, settlements: Sequence[Settlement[Any]]) -> Sequence[Delivery[Any]]:
        lost: Sequence[Delivery[Any]] = await self._call("settle", settlements)
        return lost

    async def extend(self, deliveries: Sequence[Delivery[Any]], lease: float) -> Sequence[Delivery[Any]]:
        lost: Sequence[Delivery[Any]] = await self._call("extend", deliveries, lease)
        return lost
