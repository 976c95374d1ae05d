"""The lease keeper: renews what a worker holds, from a thread and a connection of its own.

So a handler that runs for hours or blocks the event loop keeps its message, for as long as the process lives. (Code
that never lets go of the interpreter lock, such as a runaway regular expression, stops this thread too.) With
``threaded=False`` it renews on the worker's own loop: for simulations, and for brokers that live on that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..broker import Broker
from ..clock import Clock
from ..message import Delivery
from ..outage import LONGEST_PAUSE, Outages
from ..telemetry import Telemetry
from ..threads import Threads
from . import run_forever

logger = logging.getLogger("penstock")

BATCH = 500


class LeaseKeeper:
    """Renews the leases of one subscription. ``held`` and ``lost`` are called on the keeper's thread."""

    name = "lease keeper"

    def __init__(
        self,
        broker: Broker[Any],
        stream: str,
        lease: float,
        held: Callable[[], Sequence[Delivery[Any]]],
        lost: Callable[[Delivery[Any]], None],
    ) -> None:
        self.stream = stream
        self.broker = broker
        self._lease, self._held, self._lost = lease, held, lost

    async def run_once(self) -> float:
        """Renew everything held now."""
        await self.broker.open()
        held = self._held()
        for start in range(0, len(held), BATCH):
            for delivery in await self.broker.extend(held[start : start + BATCH], self._lease):
                self._lost(delivery)
        return self.interval

    @property
    def interval(self) -> float:
        """Seconds between two renewals, and after an outage too: with a jitter of a fifth at most a third of the lease."""
        return self._lease / 4

    async def run(self, clock: Clock, dice: random.Random, telemetry: Telemetry, outages: Outages) -> None:
        """Renew until cancelled."""
        # What is fetched right after an outage must not wait longer for its first renewal than anything else
        await run_forever(self, clock, dice, telemetry, longest=min(LONGEST_PAUSE, self.interval), outages=outages)


class KeeperThread:
    """Runs lease keepers on a thread and an event loop of their own, on forks of their brokers. They come and go."""

    def __init__(self, clock: Clock, dice: random.Random, telemetry: Telemetry) -> None:
        self._clock, self._dice, self._telemetry = clock, dice, telemetry
        self._waiting: list[tuple[LeaseKeeper, Outages]] = []
        self._running: dict[int, asyncio.Task[None]] = {}
        self._forks: dict[
            int, tuple[Broker[Any], Broker[Any]]
        ] = {}  # by the original, which is kept: its id is its name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, keeper: LeaseKeeper, outages: Outages) -> None:
        """Renew what this keeper holds, from now on; before the start too."""
        with self._guard:
            if self._loop is None:
                self._waiting.append((keeper, outages))
                return
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._begin, keeper, outages)

    def drop(self, keeper: LeaseKeeper) -> None:
        """Renew for this keeper no more."""
        with self._guard:
            self._waiting = [item for item in self._waiting if item[0] is not keeper]
            if self._loop is None:
                return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, keeper)

    async def stop(self) -> None:
        """End the thread; what is held is renewed no more."""
        waiting = Threads(1, "penstock-leases-end")  # the loop's own pool is closed by now if the interpreter ends
        try:
            await asyncio.get_running_loop().run_in_executor(waiting, self._join)
        finally:
            waiting.shutdown()

    def _join(self) -> None:
        self._started.wait()
        if self._loop is not None and self._main is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop with it
                self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._keep())
        except asyncio.CancelledError:
            pass
        except Exception:
            logger.exception("the lease keeper died; leases will lapse")
        finally:
            self._started.set()

    async def _keep(self) -> None:
        self._main = asyncio.current_task()
        try:
            with self._guard:
                self._loop = asyncio.get_running_loop()
                waiting, self._waiting = self._waiting, []
            self._started.set()
            for keeper, outages in waiting:
                self._begin(keeper, outages)
            await asyncio.Event().wait()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            closed = await asyncio.gather(*(fork.close() for _, fork in self._forks.values()), return_exceptions=True)
            for error in filter(None, closed):
                logger.debug("a lease keeper's connection could not be closed", exc_info=error)

    def _begin(self, keeper: LeaseKeeper, outages: Outages) -> None:
        original = keeper.broker
        if id(original) not in self._forks:
            self._forks[id(original)] = (original, original.fork())
        keeper.broker = self._forks[id(original)][1]
        work = keeper.run(self._clock, self._dice, self._telemetry, outages)
        self._running[id(keeper)] = task = asyncio.create_task(work)
        task.add_done_callback(_tell_of_death)

    def _end(self, keeper: LeaseKeeper) -> None:
        task = self._running.pop(id(keeper), None)
        if task is not None:
            task.cancel()


def _tell_of_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a lease keeper died; its leases will lapse", exc_info=error)
