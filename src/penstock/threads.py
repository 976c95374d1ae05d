"""The threads that plain-function handlers run in, and calls that block.

A thread cannot be interrupted, and Python waits for those of its own pools when the process ends. So a handler that
outlives the drain would keep a stopped worker alive, at work on a message that is somebody else's by then. These are
daemon threads: the end of the process is their end, as it would be by a crash.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work: TypeAlias = "tuple[Future[Any], Callable[[], Any]] | None"  # None: no more will come


class TimesOut(Protocol):
    """Says whether the time of a running handler is over."""

    timed_out: bool


def run_in(threads: Pool | None, call: Callable[[], T]) -> asyncio.Future[T]:
    """Call it in one of the threads, ``None`` for the loop's own, with the context variables of here."""
    return asyncio.get_running_loop().run_in_executor(threads, _called, contextvars.copy_context(), call)


async def in_thread(threads: Pool, context: TimesOut, call: Callable[[], T]) -> T:
    """Run a handler in a thread. At its timeout it cannot be interrupted: what it comes to counts."""
    future = run_in(threads, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not context.timed_out:
            raise
        return await future


def _called(within: contextvars.Context, call: Callable[[], T]) -> T:
    """Call it. No future can carry a ``StopIteration``: whoever waits for it would wait for ever."""
    try:
        return within.run(call)
    except StopIteration as error:
        raise RuntimeError("StopIteration was raised in a thread") from error


class Threads(Pool):
    """At most ``most`` threads, started as they are needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._work: SimpleQueue[_Work] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("these threads have been shut down")
            self._work.put((future, partial(fn, *args, **kwargs)))
            if self._idle:
                self._idle -= 1  # one that is free will take it
            elif self._count < self._most:
                self._count += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more work; each thread ends when it has finished what it is doing. Never waits."""
        with self._lock:
            self._closed = True
        while cancel_futures:
            try:
                item = self._work.get_nowait()
            except Empty:
                break
            if item is not None:
                item[0].cancel()
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 whoever waits for it gets it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del item, future, call  # nothing is kept alive while this thread waits
            with self._lock:
                self._idle += 1
        self._work.put(None)  # for the next one
