"""The worker: consumers and services in one process, from start to a clean stop.

start: open the brokers, start consumers, lease keeper and services · quiet: fetch no more · stop: give back what has
not begun, drain, release the rest, leave. SIGTERM and SIGINT stop, a second one releases at once; SIGTSTP and SIGUSR1
quiet. ``stop`` may be called at any time and any number of times.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Self

from .audit import Audit
from .broker import Broker, Presence, SupportsPause, SupportsPresence
from .checks import instance, not_negative
from .clock import SYSTEM_CLOCK, Clock
from .consumer import Consumer, troubles
from .errors import AccessDenied, ConfigurationError
from .running import Surroundings
from .services import Service, run_forever
from .services.archivist import Archivist
from .services.heartbeat import Heartbeat
from .services.leases import KeeperThread, LeaseKeeper
from .services.pauses import PauseWatch
from .signals import heeding
from .telemetry import TELEMETRY, Telemetry
from .version import __version__

logger = logging.getLogger("penstock")


class Worker:
    """Runs consumers until told to stop.

    ``drain``: seconds that running handlers get when it stops. ``scheduler``: run one inside (a fleet may
    leave it to a standalone ``RetryDaemon``). ``lease_thread``: renew leases on a
    thread; only simulations want it off. As a context manager it starts and stops; ``run`` serves until a signal.
    """

    def __init__(
        self,
        *consumers: Consumer[Any],
        drain: float = 25.0,
        scheduler: bool = True,
        lease_thread: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        dice: random.Random | None = None,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        if not consumers:
            raise ConfigurationError("a worker needs at least one consumer")
        for consumer in consumers:
            instance("each argument of Worker", consumer, Consumer)
        not_negative("drain, in seconds,", drain)
        self.consumers = consumers
        self._drain, self._scheduler, self._lease_thread = drain, scheduler, lease_thread
        self._around = Surroundings(clock, dice or random.SystemRandom(), telemetry)
        self._tasks: list[asyncio.Task[None]] = []
        self._keeper: KeeperThread | None = None
        self._wanted_down = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[bool] | None = None
        self._hurry = asyncio.Event()
        self._quiet = False
        self._started_at: float | None = None

    @property
    def brokers(self) -> list[Broker[Any]]:
        """The consumers' brokers, each once."""
        return list({id(c.broker): c.broker for c in self.consumers}.values())

    @property
    def drain(self) -> float:
        """Seconds that running handlers get when it stops."""
        return self._drain

    @property
    def ready(self) -> bool:
        """Whether every consumer has an answer from its broker and none is unable to fetch or settle."""
        return not self.troubles

    @property
    def troubles(self) -> list[str]:
        """Why it is not ready, in words."""
        return ["quiet: nothing more is fetched"] if self._quiet else troubles(self.consumers)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything. Raises ``ConnectionFailed`` or ``AccessDenied`` if a broker cannot be used, then cleans up.

        A ``stop`` meanwhile ends it: then it returns with nothing started.
        """
        if self._starting is None:
            self._stopping = None
            # Here, not in the task: who wants it down before that has begun is heard
            self._wanted_down.clear()
            self._hurry.clear()
            self._starting = asyncio.create_task(self._start())
        try:
            await self._starting
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._stopping is None or (caller is not None and caller.cancelling()):
                raise

    async def _start(self) -> None:
        around = self._around = Surroundings(self._around.clock, self._around.dice, self._around.telemetry)
        self._started_at = around.clock.time()
        self._quiet = False
        try:
            for consumer in self.consumers:
                await consumer.join()  # all of them before one reads: each group gets what is there
            await self._look_for_pauses()
            for consumer in self.consumers:
                await consumer.start(around)
        except BaseException:
            await self._wind_down(0.0)
            self._starting = None
            raise
        keepers = [running.keeper() for consumer in self.consumers for running in consumer.running]
        self._keep(keepers)
        for on, service in self._services():
            outages = around.outages(on)
            self._spawn(run_forever(service, around.clock, around.dice, around.telemetry, outages=outages))
        logger.info("worker started: %s", ", ".join(c.name for c in self.consumers))

    async def run(self) -> None:
        """Start if need be, serve until a signal or ``shut_down``, then stop."""
        with heeding(self._actions()):  # from the first fetch on, none of them may end the process by itself
            await self.start()
            try:
                await self._wanted_down.wait()
            finally:  # who cancels it wants it down too
                await self.stop()

    def shut_down(self) -> None:
        """Ask ``run`` to come to its end; the second time, to hurry. Safe in a signal handler of the loop."""
        if self._wanted_down.is_set():
            self._hurry.set()
        self._wanted_down.set()

    async def quiet(self) -> None:
        """Fetch no more; what is held goes on. Readiness turns red."""
        self._quiet = True
        await asyncio.gather(*(consumer.quiet() for consumer in self.consumers))

    async def stop(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 running out of it is no error
        """Stop cleanly within ``timeout`` seconds (by default the worker's ``drain``); true if nothing was interrupted.

        Safe before start, and any number of times: every caller waits for the one stop.
        """
        if self._starting is None:
            return True
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._drain if timeout is None else timeout))
        return await asyncio.shield(self._stopping)

    async def _stop(self, timeout: float) -> bool:  # noqa: ASYNC109 see stop
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        clean = await self._wind_down(timeout)
        self._starting = None
        return clean

    async def _wind_down(self, timeout: float) -> bool:  # noqa: ASYNC109 see stop
        await self.quiet()
        draining = asyncio.gather(*(consumer.stop(timeout) for consumer in self.consumers))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            logger.warning("second signal: releasing what runs")
            for consumer in self.consumers:
                consumer.interrupt()
        clean = all(await draining)
        hurry.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._keeper is not None:
            await self._keeper.stop()
            self._keeper = None
        await asyncio.gather(*(self._leave(broker) for broker in self.brokers))
        self._started_at = None
        logger.info("worker stopped%s", "" if clean else "; some messages were released unfinished")
        return clean

    async def _leave(self, broker: Broker[Any]) -> None:
        try:
            if isinstance(broker, SupportsPresence):
                await broker.leave(broker.identity)
        except Exception as error:  # noqa: BLE001 a stop goes on, whatever a broker says
            logger.warning("leaving the workers' list of %s: %s", broker.url, error)
        try:
            await broker.close()
        except Exception as error:  # noqa: BLE001 a stop goes on, whatever a broker says
            logger.warning("leaving %s: %s; what was held comes back when its lease lapses", broker.url, error)

    def _keep(self, keepers: list[LeaseKeeper]) -> None:
        around = self._around
        known = [(keeper, around.outages(keeper.broker)) for keeper in keepers]
        if self._lease_thread:
            self._keeper = KeeperThread(known, around.clock, around.dice, around.telemetry)
            self._keeper.start()
            return
        for keeper, outages in known:
            self._spawn(keeper.run(around.clock, around.dice, around.telemetry, outages))

    async def pause(self) -> None:
        """Pause every consumer of this worker, until ``resume``. Readiness stays as it is."""
        await asyncio.gather(*(consumer.pause() for consumer in self.consumers))

    async def resume(self) -> None:
        """Let them go on, but for what is paused for every worker."""
        await asyncio.gather(*(consumer.resume() for consumer in self.consumers))

    async def _look_for_pauses(self) -> None:
        """Nothing of a paused stream is fetched, not even at the start."""
        for broker in self.brokers:
            try:
                if isinstance(broker, SupportsPause):
                    await self._pause_watch(broker).run_once()
            except AccessDenied as error:
                logger.warning("what is paused cannot be seen: %s", error)

    def _pause_watch(self, broker: Any) -> PauseWatch:
        return PauseWatch(broker, partial(self._follow, broker))

    async def _follow(self, broker: Broker[Any], paused: frozenset[str]) -> None:
        for consumer in self.consumers:
            if consumer.broker is broker:
                await consumer.follow(paused)

    def _services(self) -> list[tuple[Broker[Any] | Audit, Service]]:
        found: list[tuple[Broker[Any] | Audit, Service]] = []
        archives: dict[int, tuple[Broker[Any] | Audit, Service]] = {}
        for consumer in self.consumers:
            for running in consumer.running:
                found += [(consumer.broker, each) for each in running.services(scheduler=self._scheduler)]
            if consumer.archive is not None and consumer.archive.retention is not None:
                archives[id(consumer.archive)] = (consumer.archive, Archivist(consumer.archive))
        found += archives.values()
        for broker in self.brokers:
            if isinstance(broker, SupportsPresence):
                found.append((broker, Heartbeat(broker, partial(self.presence, broker))))
            if isinstance(broker, SupportsPause):
                found.append((broker, self._pause_watch(broker)))
        return found

    def presence(self, broker: Broker[Any]) -> Presence:
        """This worker as others see it."""
        return Presence(
            identity=broker.identity,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at or 0.0,
            beat_at=self._around.clock.time(),
            consumers=tuple(c.name for c in self.consumers),
            concurrency=sum(c.concurrency for c in self.consumers),
            busy=sum(c.in_flight for c in self.consumers),
            quiet=self._quiet,
            rss=resident(),
            version=__version__,
            paused=tuple(c.name for c in self.consumers if c.paused),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _actions(self) -> dict[signal.Signals, Callable[[], object]]:
        down, quiet = self.shut_down, lambda: self._spawn(self.quiet())
        return {signal.SIGTERM: down, signal.SIGINT: down, signal.SIGTSTP: quiet, signal.SIGUSR1: quiet}


def resident() -> int:
    """Bytes of memory in use, or the peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
