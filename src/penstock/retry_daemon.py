"""RetryDaemon: the scheduler of one stream as a process of its own.

Workers run a scheduler inside, so this is for fleets that want due messages moved even while no worker runs, or that
share a stream with programs in other languages.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Self

from .broker import Broker, SupportsSchedule
from .checks import at_least_one, positive
from .clock import SYSTEM_CLOCK, Clock
from .errors import UnsupportedFeature
from .services import run_forever
from .services.scheduler import Scheduler
from .sharding import shard_names
from .telemetry import TELEMETRY, Telemetry


class RetryDaemon:
    """Moves due messages of ``stream`` until stopped; any number may run at once.

    ``shards``: as the stream's producers say. ``delayed``: the structure to look at, by default the stream's own.
    ``max_batch``: messages of one move. ``tick``: seconds between looks, varied by ``jitter`` (a share of it).
    Also an async context manager.
    """

    def __init__(  # noqa: PLR0913 the options of the role, by keyword
        self,
        broker: Broker[Any],
        stream: str,
        *,
        shards: int = 1,
        delayed: str | None = None,
        max_batch: int = 256,
        tick: float = 0.25,
        jitter: float = 0.2,
        clock: Clock = SYSTEM_CLOCK,
        dice: random.Random | None = None,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        positive("tick, in seconds,", tick)
        at_least_one("max_batch", max_batch)
        if not isinstance(broker, SupportsSchedule):
            raise UnsupportedFeature(f"{broker.url} delivers delayed messages by itself and needs no retry daemon")
        self._broker, self._jitter = broker, jitter
        self._clock, self._dice, self._telemetry = clock, dice or random.SystemRandom(), telemetry
        self._schedulers = [
            Scheduler(broker, name, telemetry, delayed=delayed, max_batch=max_batch, tick=tick)
            for name in shard_names(stream, shards)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not stopped."""
        return any(not task.done() for task in self._tasks)

    async def start(self) -> None:
        """Open the broker and begin; does nothing if it runs already."""
        if self.is_running:
            return
        await self._broker.open()
        for scheduler in self._schedulers:
            loop = run_forever(scheduler, self._clock, self._dice, self._telemetry, jitter=self._jitter)
            self._tasks.append(asyncio.create_task(loop, name=f"retry daemon {scheduler.stream}"))

    async def stop(self) -> None:
        """End after the move under way; moves are atomic, so nothing is left half done."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
