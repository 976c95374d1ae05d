"""The thread that valkey-glide lives on, with the one event loop that it has in this process.

GLIDE brings all replies of a process through one pipe, which the loop that connected first reads for everybody: a
handler that blocks that loop would hold up the replies to all others, the lease keeper's among them, and a loop that
ends would take them with it. So no loop of ours reads it but this one, which lives as long as the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class GlideThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._ready, self._ending = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="penstock-glide", daemon=True)
        self._thread.start()
        self._ready.wait()
        atexit.register(self._end)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` over there. Cancelling this cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._ending.wait()

    def _end(self) -> None:
        if self.pid == os.getpid():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(timeout=1.0)


_lock = threading.Lock()
_threads: list[GlideThread] = []


def glide_thread() -> GlideThread:
    """The thread of this process; a forked child gets its own."""
    with _lock:
        if not _threads or _threads[-1].pid != os.getpid():
            _threads[:] = [GlideThread()]
        return _threads[-1]
