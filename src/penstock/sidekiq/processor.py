"""Runs jobs: the engine's handler for every type, from a job's arguments to its outcome.

1. The class is looked up by its name; an unknown one is a failure like any other, so that the job is tried again.
2. An instance is made for this one execution; around it, where somebody asks for it: the job logger, the tracker of
   execution times, the profiler, the server's middleware.
3. ``perform``: a coroutine on the loop, a plain function in a thread.
4. What it raises becomes an outcome: ``Skip`` and a middleware that does not go on end the job, an interrupted
   iteration goes back to the end of its queue, the end of the process gives the job back, everything else fails.

What nobody asks for costs nothing: the parsed payload is made for those who look at it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random, SystemRandom
from typing import Any, Final, Protocol, cast

from ..audit import Audit
from ..broker import Broker
from ..clock import SYSTEM_CLOCK, Clock
from ..consumer import Consumer
from ..context import Context
from ..errors import HandlerTimeout
from ..executor import Limits
from ..iterable import Interrupted, IterableJob, Iterations
from ..message import Delivery
from ..outcome import ACK, DeadLetter, Outcome, Release, Retry
from ..plan import Options
from ..queues import Queues
from ..retry import RetryPolicy
from ..threads import Threads, in_thread
from . import job_retry
from .chain import Chain
from .failures import Failures, JobClasses
from .handlers import Handlers
from .job_logger import LogsJobs
from .job_payload import ArgsCodec, jid_of, payload_of
from .job_retry import Skip, Timestamps, caused_by_shutdown
from .payload import Payload

logger = logging.getLogger("penstock.sidekiq")

ASKING: Final = frozenset({"profile", "log_level"})  # what a job may ask for itself
BACK_OF_THE_QUEUE: Final = Retry(0.0, counts=False)
HANDED_BACK: Final = Release()

MAX_CRASHES: Final = 3  # owners that may die with a job before it is dead
_OPTIONS: Final = Options(limits=Limits(max_crashes=MAX_CRASHES))

# For the consumer: how often a job is tried is the job's to say. The curve is for what does not get here: a timeout.
UNLIMITED: Final = RetryPolicy(max_attempts=sys.maxsize, backoff=job_retry.default_delay)


class TracksJobs(Protocol):
    """Counts executions and their times, in seconds of the monotonic clock."""

    def ran(self, name: str, began: float, ended: float, /) -> None: ...

    def failed(self, name: str, /) -> None: ...


class Profiles(Protocol):
    """Records what a job does that asks for it."""

    def profile(self, payload: Payload, /) -> AbstractAsyncContextManager[None]: ...

    def follow(self, call: Callable[..., Any], /) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorOptions:
    """What a processor works with. ``threads``: plain ``perform``s at once, at most the consumer's concurrency.

    ``job_logger``, ``tracker``, ``profiler``: ``None`` for none. ``iterations``: where iterable jobs keep their state.
    ``max_retries``: for jobs that name no number. ``timestamps``: as the broker's, for payloads that hooks see.
    """

    chain: Chain | None = None
    handlers: Handlers = field(default_factory=Handlers)
    job_logger: LogsJobs | None = None
    tracker: TracksJobs | None = None
    profiler: Profiles | None = None
    iterations: Iterations = field(default_factory=Iterations)
    max_retries: int = 25
    timestamps: Timestamps = "ms"
    threads: int = 10
    clock: Clock = SYSTEM_CLOCK
    dice: Random = field(default_factory=SystemRandom)


@dataclass(slots=True)
class _Plan:
    """How the jobs of a class are run."""

    make: Callable[[], Any]
    threaded: bool
    iterable: bool
    plain: bool  # neither of these


class Processor:
    """Runs the jobs of ``jobs``, by their classes: ``Worker(Processor(JOBS).consumer(broker, "default"))``."""

    def __init__(self, jobs: JobClasses, options: ProcessorOptions | None = None) -> None:
        self.options = options = options or ProcessorOptions()
        self._resolve, self._plans = jobs.resolve, dict[type[Any], _Plan]()
        self._chain, self._tracker, self._log = options.chain, options.tracker, options.job_logger
        self._failures = Failures(
            jobs=jobs,
            handlers=options.handlers,
            max_retries=options.max_retries,
            timestamps=options.timestamps,
            clock=options.clock,
            dice=options.dice,
        )
        self._monotonic, self._threads = options.clock.monotonic, cast("Threads | None", None)
        self._telling: set[asyncio.Task[None]] = set()

    async def __call__(self, args: list[Any], context: Context) -> Outcome | None:
        """Run one job."""
        try:
            headers, log = context.headers, self._log
            if self._chain or (log and log.enabled()) or (headers and not ASKING.isdisjoint(headers)):
                await self._observed(args, context)
                return None
            cls = self._resolve(context.type)
            plan = (cls and self._plans.get(cls)) or self._planned(cls, context)
            job = plan.make()
            job.jid = jid_of(context) if headers else context.id
            running = job.perform(*args) if plan.plain else self._called(plan, job, args, context)
            tracker = self._tracker
            await (running if tracker is None else self._tracked(tracker, running, context))
        except BaseException as error:  # noqa: BLE001 whatever a job raises is a failure of it: a panic, an exit
            return await self._ended(error, args, context)
        return None

    def consumer(
        self,
        broker: Broker[Any],
        queues: str | Queues,
        *,
        group: str = "default",
        concurrency: int = 10,
        options: Options = _OPTIONS,
        archive: Audit | None = None,
    ) -> Consumer[Any]:
        """What takes this processor's jobs from ``queues``. All else as of any consumer."""
        return Consumer(
            broker,
            queues,
            list,
            self,
            group=group,
            codec=ArgsCodec(),
            retry=UNLIMITED,
            concurrency=concurrency,
            options=replace(options, refused=options.refused or self.refused),
            archive=archive,
        )

    def close(self) -> None:
        """Take no more work in threads. What is in them cannot be interrupted, and does not keep the process alive."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None

    def refused(self, delivery: Delivery[Any], outcome: DeadLetter) -> None:
        """Tell the error handlers of what was no job and is dead. For ``Options.refused`` of the consumer."""
        error = outcome.error or RuntimeError(outcome.reason)
        what = (
            "Invalid JSON for job" if delivery.defect or outcome.reason in {"undecodable", "invalid"} else "Job refused"
        )
        raw: Any = getattr(delivery.message.headers, "raw", None) or delivery.message.body
        context = {
            "context": f"{what}: {outcome.reason}" if what == "Job refused" else what,
            "jobstr": raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw),
            "queue": delivery.source,
        }
        task = asyncio.get_running_loop().create_task(self.options.handlers.report(error, context))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # ------------------------------------------------------------------------------------------------------- execution

    async def _observed(self, args: list[Any], context: Context) -> None:
        """An execution at which somebody looks: its logger, its profiler, the middleware."""
        options, queue = self.options, context.stream
        payload, log = payload_of(args, context, options.timestamps), self._log
        with log.prepare(payload) if log else nullcontext(), log.call(payload, queue) if log else nullcontext():
            if options.profiler is not None and payload.get("profile"):
                async with options.profiler.profile(payload):
                    await self._chained(context, payload)
            else:
                await self._chained(context, payload)

    async def _chained(self, context: Context, payload: Payload) -> None:
        """Within the middleware, which may change the arguments: encryption does."""
        cls = self._resolve(context.type)
        plan = (cls and self._plans.get(cls)) or self._planned(cls, context)
        job = plan.make()
        job.jid = jid_of(context)
        chain = self._chain

        async def call() -> Any:
            return await self._called(plan, job, payload["args"], context)  # the arguments as they are by then

        running = chain.invoke(call, job, payload, context.stream) if chain else call()
        tracker = self._tracker
        await (running if tracker is None else self._tracked(tracker, running, context))

    async def _tracked(self, tracker: TracksJobs, running: Awaitable[Any], context: Context) -> None:
        monotonic, headers = self._monotonic, context.headers
        name = (headers.get("wrapped") or context.type) if headers else context.type
        began = monotonic()
        try:
            await running
        except (Skip, Interrupted):
            tracker.ran(name, began, monotonic())
            raise
        except BaseException as error:
            if context.timed_out or not isinstance(error, asyncio.CancelledError):  # what is given back is no failure
                tracker.failed(name)
            raise
        tracker.ran(name, began, monotonic())

    async def _called(self, plan: _Plan, job: Any, args: list[Any], context: Context) -> Any:
        if plan.iterable:
            job.iterations = replace(self.options.iterations, threads=self._pool())
        if not plan.threaded:
            return await job.perform(*args)
        profiler = self.options.profiler
        call = job.perform if profiler is None else profiler.follow(job.perform)
        result = await in_thread(self._pool(), context, partial(call, *args))
        return await result if inspect.isawaitable(result) else result  # a plain wrapper of a coroutine function

    def _pool(self) -> Threads:
        if self._threads is None:
            self._threads = Threads(self.options.threads, "penstock-job")
        return self._threads

    def _planned(self, cls: type[Any] | None, context: Context) -> _Plan:
        """How the jobs of a class are run. Raises ``NameError``, as Ruby does."""
        if cls is None:
            raise NameError(f"no job class is registered as {context.type!r} in this process")
        threaded = not inspect.iscoroutinefunction(getattr(cls, "perform", None))
        iterable = issubclass(cls, IterableJob)
        plan = self._plans[cls] = _Plan(cls, threaded, iterable, not threaded and not iterable)
        return plan

    # ------------------------------------------------------------------------------------------------------------- end

    async def _ended(self, error: BaseException, args: list[Any], context: Context) -> Outcome:
        """The outcome of an execution that raised. Raises what is not the job's: the end of its task, of the process."""
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise error
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        stopping = cancelled > (1 if context.timed_out else 0)
        if cancelled and not stopping and isinstance(error, asyncio.CancelledError):
            error = HandlerTimeout().with_traceback(error.__traceback__)
        if isinstance(error, Skip):
            return ACK
        if isinstance(error, Interrupted):
            return HANDED_BACK if context.stopping else BACK_OF_THE_QUEUE
        if caused_by_shutdown(error, stopping=stopping):
            if stopping:
                raise asyncio.CancelledError from error
            return HANDED_BACK
        payload, log = payload_of(args, context, self.options.timestamps), self._log
        with ExitStack() as stack:
            if log:
                try:
                    stack.enter_context(log.prepare(payload))
                except Exception:
                    logger.exception("the job logger failed; the job's failure is decided without it")
            return await self._failures.outcome(error, payload, context.stream, context.attempt)
