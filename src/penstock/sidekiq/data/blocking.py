"""The data for code without an event loop: scripts, threads, a view of a web application."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, TypeVar, cast

from ...brokers.sidekiq import SidekiqBroker
from ...portal import Portal, shared
from ...sync import PATIENCE
from .data import Data

T = TypeVar("T")


class BlockingData:
    """Does what it is told on the loop of ``penstock.sync``, from any thread, in any process, and waits for it.

    ``patience``: seconds after which a call gives up with ``ConnectionFailed``. ``given``: as for ``Data``.
    """

    def __init__(self, broker: SidekiqBroker, *, patience: float = PATIENCE, **given: Any) -> None:
        self._broker, self._patience = broker, patience
        self._given: dict[str, Any] = {"repush": broker.repush, **given}
        self._made: tuple[Portal, Data] | None = None

    def call(self, work: Callable[[Data], Awaitable[T]]) -> T:
        """The result of ``work(data)``, such as ``lambda data: RetrySet(data).retry_all()``."""

        async def run() -> T:
            return await work(self._data())

        return shared().call(run, self._patience)

    def list(self, work: Callable[[Data], AsyncIterable[T]]) -> list[T]:
        """Everything in ``work(data)``, such as ``lambda data: Queue(data, "low")``."""

        async def run() -> list[T]:
            return [each async for each in work(self._data())]

        return shared().call(run, self._patience)

    def _data(self) -> Data:
        portal = shared()
        if self._made is None or self._made[0] is not portal:  # the first call here, or since a fork
            fork = cast("SidekiqBroker", portal.fork(self._broker))
            self._made = portal, Data(fork.client, options=fork.options, **self._given)
            weakref.finalize(self, portal.release, fork)
        return self._made[1]
