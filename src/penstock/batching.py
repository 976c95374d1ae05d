"""Group commit: concurrent callers share one round trip, a lone caller waits for nobody.

While one batch is under way, whatever arrives waits and leaves together as the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from .errors import PublishError

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Turns ``flush(items) -> results`` into ``submit(item) -> result``.

    ``limit``: most items of one batch. ``backlog``: most items that may wait; beyond it ``submit`` itself waits, which
    is the back-pressure on producers faster than their broker.
    """

    def __init__(
        self, flush: Callable[[Sequence[In]], Awaitable[Sequence[Out]]], *, limit: int = 1000, backlog: int = 10_000
    ) -> None:
        self._flush, self._limit = flush, limit
        self._room = asyncio.Semaphore(backlog)
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._busy = False
        self._drainer: asyncio.Task[None] | None = None

    async def submit(self, item: In) -> Out:
        """The result for ``item``, or its own error. Cancelling one caller never disturbs another."""
        if self._busy:
            return await self._queue(item)
        self._busy = True
        try:
            return (await self._flush((item,)))[0]
        except PublishError as error:
            raise _own(error.results[0]) from error
        finally:
            self._busy = False
            self._continue()

    async def _queue(self, item: In) -> Out:
        async with self._room:
            future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, future))
            # Whoever was busy may have ended while this caller waited for room.
            self._continue()
            return await future

    def _continue(self) -> None:
        if self._waiting and not self._busy:
            self._busy = True
            self._drainer = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
                alive = [(item, future) for item, future in taken if not future.done()]
                if alive:
                    await self._send([item for item, _ in alive], [future for _, future in alive])
        finally:
            self._busy = False
            self._continue()

    async def _send(self, items: list[In], futures: list[asyncio.Future[Out]]) -> None:
        results: Sequence[Out | BaseException] = ()
        try:
            results = await self._flush(items)
        except PublishError as error:
            results = cast("Sequence[Any]", error.results)
        except BaseException as error:
            results = [error] * len(items)
            if not isinstance(error, Exception):
                raise
        finally:
            for future, result in zip(futures, results, strict=False):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)


def _own(result: str | Exception) -> Exception:
    return result if isinstance(result, Exception) else PublishError([result])
