"""A door into asyncio for code without a loop: one event loop on a thread of its own, and calls that wait for it.

``shared()`` is the one that all synchronous objects of a process use. It starts with the first call, ends with the
interpreter, and is begun anew in a process that was forked: what a parent has connected is the parent's.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from .broker import Broker
from .errors import ConfigurationError, ConnectionFailed

T = TypeVar("T")

FAREWELL = 5.0  # seconds that an ending interpreter gives connections to close


class Portal:
    """A running event loop of its own thread. Any thread may call; calls run concurrently."""

    def __init__(self, name: str) -> None:
        self._forks: set[Broker[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], timeout: float | None) -> T:
        """The result of ``work()``, run on the loop; what it raises is raised here.

        Raises ``ConnectionFailed`` after ``timeout`` seconds, and cancels the work; ``ConfigurationError`` on the
        loop's own thread, where waiting for it would be for ever.
        """
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                "the synchronous API was called by a coroutine that it runs itself, and would wait for ever; there,"
                " await the asynchronous one"
            )
        if not self.alive:
            raise ConfigurationError("this loop has ended, or belongs to the process that this one was forked from")
        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # its own
                raise
            future.cancel()
            raise ConnectionFailed(f"no answer within {timeout} seconds; whether it was done is unknown") from None
        except BaseException:  # a KeyboardInterrupt, or another exception that found us waiting
            future.cancel()
            raise

    def fork(self, broker: Broker[Any]) -> Broker[Any]:
        """Connections of this loop's own to the system of ``broker``, until ``release``."""
        fork = broker.fork()
        self._forks.add(fork)
        return fork

    def release(self, fork: Broker[Any]) -> None:
        """Close a fork, some time soon. Any thread may ask, a garbage collector too."""
        with suppress(RuntimeError):  # the loop has ended, and closed it
            self._loop.call_soon_threadsafe(self._release, fork)

    def _release(self, fork: Broker[Any]) -> None:
        if fork in self._forks:
            self._forks.discard(fork)
            task = self._loop.create_task(_close(fork))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @property
    def alive(self) -> bool:
        """Whether it can be called. Not in a process that was forked from the one that made it."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the loop; calls under way are cancelled. Idempotent."""
        if self.alive:
            self._loop.call_soon_threadsafe(self._wanted_down.set)
            self._thread.join(FAREWELL)

    def _serve(self) -> None:
        try:
            runner = asyncio.Runner()
            loop = runner.get_loop()  # may lack a file descriptor: the caller must hear of it
        except Exception as error:  # noqa: BLE001 raised by who made the portal
            self._failure = error
            self._ready.set()
            return
        with runner:
            self._loop = loop
            runner.run(self._main())

    async def _main(self) -> None:
        self._wanted_down = asyncio.Event()
        self._ready.set()
        await self._wanted_down.wait()
        await asyncio.gather(*self._closing, *map(_close, self._forks))


async def _close(fork: Broker[Any]) -> None:
    with suppress(Exception):  # nobody is left who would want to know
        await fork.close()


class _Process:
    """What there is once for each process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.portal: Portal | None = None
        self.parents: list[Portal | None] = []

    def forked(self) -> None:
        """We are the child: the thread is not here, and the parent's sockets are not ours to close."""
        self.lock = threading.Lock()
        self.parents.append(self.portal)
        self.portal = None

    def close(self) -> None:
        if self.portal is not None:
            self.portal.close()


_process = _Process()
atexit.register(_process.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forked)


def shared() -> Portal:
    """The portal of this process."""
    with _process.lock:
        if _process.portal is None:
            _process.portal = Portal("penstock-sync")
        return _process.portal
