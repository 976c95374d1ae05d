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
    """Runs lease keepers on a thread and an event loop of their own, on forks of their brokers."""

    def __init__(
        self, keepers: Sequence[tuple[LeaseKeeper, Outages]], clock: Clock, dice: random.Random, telemetry: Telemetry
    ) -> None:
        self._keepers, self._clock, self._dice, self._telemetry = keepers, clock, dice, telemetry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

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
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()
        forks = {id(keeper.broker): keeper.broker.fork() for keeper, _ in self._keepers}
        for keeper, _ in self._keepers:
            keeper.broker = forks[id(keeper.broker)]
        try:
            async with asyncio.TaskGroup() as group:
                for keeper, outages in self._keepers:
                    group.create_task(keeper.run(self._clock, self._dice, self._telemetry, outages))
        finally:
            closed = await asyncio.gather(*(fork.close() for fork in forks.values()), return_exceptions=True)
            for error in filter(None, closed):
                logger.debug("a lease keeper's connection could not be closed", exc_info=error)
