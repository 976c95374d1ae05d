"""An event loop on a daemon thread of its own: for work that must not wait for the program's loop, nor hold it up.

It lives until ``end``. Belongs to the process that made it: a fork has no such thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for any thread."""

    def __init__(self, name: str) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it over there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it from another loop. Cancelling this cancels it."""
        return await asyncio.wrap_future(self.submit(work))

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have it called over there, some time soon."""
        self._loop.call_soon_threadsafe(call)

    def end(self, within: float) -> None:
        """Stop the loop and wait for the thread; what still runs is cancelled. Idempotent."""
        if self._thread.is_alive() and self.pid == os.getpid():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(within)

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # which cancels what is left at the end
            runner.get_loop().run_forever()
