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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from .broker import Broker, Presence, SupportsPause, SupportsPresence
from .checks import instance, not_negative
from .clock import SYSTEM_CLOCK, Clock
from .consumer import Consumer, troubles
from .departure import SupportsDeparture
from .errors import AccessDenied, BrokerError, ConfigurationError
from .running import Surroundings
from .services import Service
from .services.heartbeat import Heartbeat
from .services.pauses import PauseWatch
from .signals import heeding
from .staff import Staff
from .telemetry import TELEMETRY, Telemetry
from .version import __version__

logger = logging.getLogger("penstock")


class Worker:
    """Runs consumers until told to stop.

    ``drain``: seconds that running handlers get when it stops. ``scheduler``: run one inside (a fleet may leave it to a
    standalone ``RetryDaemon``). ``lease_thread``: renew leases on a thread; only simulations want it off. As a context
    manager it starts and stops; ``run`` serves until a signal.
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
        self._staff: Staff | None = None
        self._changing = asyncio.Lock()
        self._wanted_down = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[bool] | None = None
        self._hurry = asyncio.Event()
        self._quiet = False
        self._started_at: float | None = None

    @property
    def brokers(self) -> list[Broker[Any]]:
        """The consumers' brokers, each once; those of consumers that have gone are served until the stop."""
        served = {} if self._staff is None else self._staff.brokers
        return list((served | {id(c.broker): c.broker for c in self.consumers}).values())

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
        return troubles(self.consumers) if not self._quiet else ["quiet: nothing more is fetched"]

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
            for asked in (self._wanted_down, self._hurry):  # not in the task: who asks before it runs is heard
                asked.clear()
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
        staff = Staff(around, self._services, scheduler=self._scheduler, thread=self._lease_thread)
        for consumer in self.consumers:
            staff.begin(consumer)
        staff.start()
        self._staff = staff
        logger.info("worker started: %s", ", ".join(c.name for c in self.consumers))

    async def add(self, consumer: Consumer[Any]) -> None:
        """Take a consumer on: at once if the worker runs, else with its start.

        Returns when the group is there and it reads. Raises ``ConnectionFailed``, ``AccessDenied``: then nothing changed.
        """
        instance("what a worker takes on", consumer, Consumer)
        async with self._changing:
            if consumer in self.consumers:
                raise ConfigurationError(f"{consumer.name} belongs to this worker already")
            if self._starting is not None:
                await asyncio.wait((self._starting,))
            if self._staff is not None and not self._quiet:
                await self._take_on(consumer, self._staff)
            self.consumers = (*self.consumers, consumer)

    async def _take_on(self, consumer: Consumer[Any], staff: Staff) -> None:
        broker = consumer.broker
        if isinstance(broker, SupportsPause):
            await broker.open()
            with suppress(AccessDenied):  # then nobody sees what is paused
                await consumer.follow(await broker.paused())
        await consumer.start(self._around)
        if self._staff is staff:
            staff.begin(consumer)
            return
        await consumer.stop(0.0)  # the worker came to its end meanwhile
        if broker not in self.brokers:
            await leave(broker)

    async def remove(self, consumer: Consumer[Any], timeout: float | None = None) -> bool:  # noqa: ASYNC109 see stop
        """Let a consumer go, as ``stop`` does with all of them; the others go on. True if nothing was interrupted.

        Its leases are renewed until its last outcome is written. Harmless for one that is not of this worker.
        """
        if consumer not in self.consumers:
            return True
        clean = await consumer.stop(self._drain if timeout is None else timeout)
        self.consumers = tuple(each for each in self.consumers if each is not consumer)
        if self._staff is not None:
            await self._staff.end(consumer)
        await depart(consumer)
        return clean

    async def run(self) -> None:
        """Start if need be, serve until a signal or ``shut_down``, then stop."""
        with heeding(_actions(self)):  # from the first fetch on, none of them may end the process by itself
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
        brokers, staff, self._staff = self.brokers, self._staff, None
        if staff is not None:
            await staff.stop()
        await asyncio.gather(*(leave(broker) for broker in brokers))
        self._started_at = None
        logger.info("worker stopped%s", "" if clean else "; some messages were released unfinished")
        return clean

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

    def _services(self, broker: Broker[Any]) -> list[Service]:
        """What is done once for a broker."""
        found: list[Service] = []
        if isinstance(broker, SupportsPresence):
            found = [Heartbeat(broker, partial(self.presence, broker))]
        return [*found, self._pause_watch(broker)] if isinstance(broker, SupportsPause) else found

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


def _actions(worker: Worker) -> dict[signal.Signals, Callable[[], object]]:
    """What signals do."""
    quieting: list[asyncio.Task[None]] = []

    def quiet() -> None:
        quieting.append(asyncio.create_task(worker.quiet()))

    stop = worker.shut_down
    return {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGTSTP: quiet, signal.SIGUSR1: quiet}


async def leave(broker: Broker[Any]) -> None:
    """Take leave of a broker, whatever it says."""
    try:
        if isinstance(broker, SupportsPresence):
            await broker.leave(broker.identity)
    except Exception as error:  # noqa: BLE001 a stop goes on, whatever a broker says
        logger.warning("leaving the workers' list of %s: %s", broker.url, error)
    try:
        await broker.close()
    except Exception as error:  # noqa: BLE001 a stop goes on, whatever a broker says
        logger.warning("leaving %s: %s; what was held comes back when its lease lapses", broker.url, error)


async def depart(consumer: Consumer[Any]) -> None:
    """Take leave of what one consumer has read."""
    broker = consumer.broker
    if isinstance(broker, SupportsDeparture):
        try:
            await broker.depart(consumer.subscription)
        except BrokerError as error:
            logger.warning("leaving %s: %s; what was held comes back when its lease lapses", consumer.name, error)


def resident() -> int:
    """Bytes of memory in use, or the peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
