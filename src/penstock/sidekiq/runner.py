"""A Sidekiq process: one consumer for each capsule, a worker around them, and what Ruby's pages want to know of it.

start: ``startup`` handlers in order, one that fails ends it · beats: the process's hash, what it works on, metrics,
leadership · quiet: no new jobs · stop: quiet, ``shutdown``, drain, give back the rest, last counts, ``exit``. All loops,
leases and retries are the engine's; nothing here holds a job.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from inspect import isawaitable
from typing import Any, Self

from .. import job_route
from ..broker import Broker
from ..brokers.sidekiq import SidekiqBroker
from ..clock import SYSTEM_CLOCK, Clock
from ..consumer import Consumer
from ..iterable import Iterations, MemoryIterations
from ..job import JOBS
from ..job_registry import Jobs
from ..job_route import Pusher
from ..signals import heeding
from ..worker import Worker
from .client import Client
from .config import Capsule, Config, Event, opened
from .handlers import Handlers
from .iteration_store import RedisIterations
from .job_logger import JobLogger
from .membership import Membership
from .metrics import Tracker
from .processor import Processor, ProcessorOptions
from .profiler import Profiler

logger = logging.getLogger("penstock.sidekiq")


Handler = Callable[[], Any]


class Runner:
    """Runs the jobs of a process. ``broker``: by default the one that the configuration names.

    ``embedded``: within another program, which keeps its signals and cannot be told to stop through Redis. As a context
    manager it starts and stops; ``run`` serves until a signal.
    """

    def __init__(
        self,
        config: Config,
        *,
        jobs: Jobs[Any] = JOBS,
        broker: Broker[Any] | None = None,
        embedded: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        config.check()
        jobs.check()
        self.config, self._embedded, self._clock = config, embedded, clock
        self.broker = opened(config) if broker is None else broker
        self.client = Client(
            self.broker,
            middleware=config.client_middleware,
            server_middleware=config.server_middleware,
            strict_args=config.strict_args,
            clock=clock,
        )
        self._before: Pusher | None = None
        self._tracker = Tracker(clock=clock)
        self.processor = Processor(jobs, self._options())
        self._processors = {name: self._processor(jobs, capsule) for name, capsule in config.capsules.items()}
        self.worker = Worker(*self._consumers(), drain=config.timeout, clock=clock)
        self.started = asyncio.Event()
        self._down = asyncio.Event()
        self._quieted = False
        self._fired: set[Event] = set()
        self._signals: set[asyncio.Task[None]] = set()
        self._member = self._join(self.broker) if isinstance(self.broker, SidekiqBroker) else None

    # ----------------------------------------------------------------------------------------------------------- parts

    def _options(self) -> ProcessorOptions:
        config = self.config
        broker = self.broker
        lines = not config.skip_default_job_logging
        return ProcessorOptions(
            chain=config.server_middleware,
            handlers=Handlers(errors=config.error_handlers, deaths=config.death_handlers, config=config),
            job_logger=config.job_logger or JobLogger(attributes=config.logged_job_attributes, lines=lines),
            tracker=self._tracker if isinstance(broker, SidekiqBroker) else None,
            profiler=config.profiler or (Profiler(broker.client) if isinstance(broker, SidekiqBroker) else None),
            iterations=Iterations(
                store=RedisIterations(broker.client) if isinstance(broker, SidekiqBroker) else MemoryIterations(),
                max_runtime=config.max_iteration_runtime,
                slow=config.timeout,
                clock=self._clock,
            ),
            max_retries=config.max_retries,
            timestamps=config.timestamps,
            threads=config.total_concurrency,
            clock=self._clock,
        )

    def _processor(self, jobs: Jobs[Any], capsule: Capsule) -> Processor:
        """What runs a capsule's jobs: within its own middleware, if it has any."""
        own = capsule.own_middleware
        return self.processor if own is None else Processor(jobs, replace(self.processor.options, chain=own))

    def _consumers(self) -> list[Consumer[Any]]:
        capsules = self.config.capsules.values()
        return [
            self._processors[each.name].consumer(
                self.broker, each.queues, concurrency=each.concurrency, group=each.name
            )
            for each in capsules
        ]

    def _join(self, broker: SidekiqBroker) -> Membership:
        """Be a Sidekiq process among others."""
        config = self.config
        member = Membership(broker, self.worker, self._tracker, self._clock, self._beaten)
        member.introduce(config, embedded=self._embedded)
        if config.client_middleware:
            broker.repush = self.client.repush
        broker.on_signal = None if self._embedded else self._told
        broker.clean_backtraces(config.backtrace_cleaner)
        return member

    @property
    def leading(self) -> bool:
        """Whether this process is the leader of all, as of the last beat."""
        return self._member is not None and self._member.leading

    # ------------------------------------------------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Call the ``startup`` handlers and begin. What one of them raises ends it.

        Until it has stopped, its ``client`` is the one that jobs are pushed with in this process.
        """
        self._before = job_route.installed()
        self.client.install()
        self._down.clear()
        self._fired.clear()
        self._quieted = False
        for call in self.config.events["startup"]:
            await _awaited(call())
        if self._quieted:  # asked for meanwhile: nothing is taken, not even in the first moment
            await self.worker.pause()
        await self.worker.start()
        if self._member is not None:
            await self._member.arrive()
        self.started.set()
        if self._quieted:
            await self.quiet()
            await self.worker.resume()

    async def run(self) -> None:
        """Start, serve until a signal or ``shut_down``, stop."""
        with heeding(self._actions()):
            await self.start()
            try:
                await self._down.wait()
            finally:
                await self.stop()

    def shut_down(self) -> None:
        """Ask ``run`` to come to its end; the second time, to hurry."""
        self._down.set()
        self.worker.shut_down()

    async def quiet(self) -> None:
        """Take no new jobs; those that run go on, and the process stays."""
        self._quieted = True
        await self.worker.quiet()
        if self._member is not None and self.started.is_set():
            await self._member.tell()
        await self._fire("quiet")

    async def stop(self) -> bool:
        """Quiet, then stop within the configured time; true if no job had to be given back unfinished."""
        await self.quiet()
        await self._fire("shutdown")
        clean = await self.worker.stop()
        for processor in self._processors.values():
            processor.close()
        if self._member is not None:
            await self._member.leave()
        await self._fire("exit")
        job_route.install(self._before)
        return clean

    def _actions(self) -> dict[signal.Signals, Callable[[], object]]:
        quiet = self._quiet_soon
        return {
            signal.SIGTERM: self.shut_down,
            signal.SIGINT: self.shut_down,
            signal.SIGTSTP: quiet,
            signal.SIGUSR1: quiet,
        }

    def _quiet_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.quiet())
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)

    def _told(self, name: str) -> None:
        """Somebody asks through Redis."""
        actions: dict[str, Callable[[], object]] = {"TSTP": self._quiet_soon, "TERM": self.shut_down}
        if name in actions:
            logger.info("told by another process: %s", name)
            actions[name]()
        elif name == "TTIN" and signal.getsignal(signal.SIGTTIN) not in {signal.SIG_DFL, signal.SIG_IGN}:
            signal.raise_signal(signal.SIGTTIN)
        else:  # unhandled, SIGTTIN would freeze this process
            logger.warning("told by another process: %s, to which there is no answer here", name)

    # ----------------------------------------------------------------------------------------------------------- beats

    async def _beaten(self, first: bool) -> None:
        if first:
            self._fired.discard("heartbeat")
            await self._fire("heartbeat")
        self._fired.discard("beat")
        await self._fire("beat")

    async def _fire(self, event: Event) -> None:
        """Call the handlers of an event, the last first, once; one that fails is reported."""
        if event in self._fired:
            return
        self._fired.add(event)
        for call in reversed(self.config.events[event]):
            try:
                await _awaited(call())
            except Exception as error:  # noqa: BLE001 a handler of the user's may raise anything
                await self.processor.options.handlers.report(
                    error, {"context": "Exception during Sidekiq lifecycle event.", "event": event}
                )


async def _awaited(answer: Any) -> None:
    if isawaitable(answer):
        await answer
