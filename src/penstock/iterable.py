"""Jobs that go through many things one by one, and survive a stop in the middle: ``IterableJob``.

``build_enumerator`` says what there is, as pairs of an object and its cursor, from a cursor on; ``each_iteration`` does
the work for one. Before each item its cursor becomes the job's, then the job looks whether it should stop, then the
work is done: a cursor that was saved names what has not been worked on. State is saved every few seconds and whenever
the job ends without having come to its end; a crash or an error repeats what was done since.

An interrupted job raises ``Interrupted``; whoever runs it puts it back into its queue, and it resumes at its cursor.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, TypeGuard

import msgspec

from .clock import SYSTEM_CLOCK, Clock
from .context import current
from .errors import ConfigurationError, LostLease
from .job import Job
from .job_arguments import Arguments
from .scoped_logger import scoped_logger
from .threads import run_in

logger = scoped_logger("penstock.job")

FLUSH_INTERVAL = 5.0  # seconds after which the state is saved at the latest, when the next item begins

End: TypeAlias = Literal["completed", "interrupted", "cancelled", "save"]


class Interrupted(Exception):
    """An iteration stopped before its end; its state is saved, and it is to be run again."""


class Abort(Exception):
    """Raised by ``abort``: the iteration is over, as if there were nothing left."""


class IterationState(msgspec.Struct, kw_only=True):
    """How far a job has come. ``executions``: so far, this one included. ``runtime``: seconds, of those that ended.

    ``cursor``: any JSON value. ``cancelled``: when somebody cancelled it, in seconds since the epoch.
    """

    executions: int = 0
    cursor: Any = None
    runtime: float = 0.0
    cancelled: float | None = None


class IterationStore(Protocol):
    """Where the states of iterable jobs are kept, by job id."""

    async def load(self, jid: str, /) -> IterationState:
        """The state of a job; that of one that has never run if nothing is known."""
        ...

    async def save(self, jid: str, state: IterationState, /) -> float | None:
        """Keep all but ``cancelled``, and return that as it is now: when the job was cancelled, if it was."""
        ...

    async def cancel(self, jid: str, now: float, /) -> float:
        """Cancel a job; return when it was cancelled first."""
        ...

    async def delete(self, jid: str, /) -> None:
        """Forget a job that is over."""
        ...


class MemoryIterations:
    """States in this process, for tests and for jobs that run inline. A cursor is what JSON makes of it."""

    def __init__(self) -> None:
        self._states: dict[str, IterationState] = {}

    async def load(self, jid: str, /) -> IterationState:
        return msgspec.structs.replace(self._states.get(jid, IterationState()))

    async def save(self, jid: str, state: IterationState, /) -> float | None:
        kept = msgspec.json.decode(msgspec.json.encode(state), type=IterationState)
        kept.cancelled = self._states.get(jid, kept).cancelled
        self._states[jid] = kept
        return kept.cancelled

    async def cancel(self, jid: str, now: float, /) -> float:
        state = self._states.setdefault(jid, IterationState())
        if state.cancelled is None:
            state.cancelled = now
        return state.cancelled

    async def delete(self, jid: str, /) -> None:
        self._states.pop(jid, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterations:
    """What iterable jobs run with. ``max_runtime``: seconds after which one goes back to the end of its queue.

    ``slow``: seconds that one item may take before a warning, as many as a stopping process waits. ``threads``: what
    plain functions run in, by default the loop's own.
    """

    store: IterationStore = field(default_factory=MemoryIterations)
    max_runtime: float | None = None
    slow: float = 25.0
    clock: Clock = SYSTEM_CLOCK
    threads: Executor | None = None


_DEFAULT = Iterations()


class IterableJob(Job, abstract=True):
    """Define ``build_enumerator(*args, cursor=)`` and ``each_iteration(object, *args)``, both plain or both ``async``.

    Plain ones run in a thread. Optional: ``on_start``, ``on_resume``, ``on_stop``, ``on_cancel``, ``on_complete``, and
    ``around_iteration``, a context manager around each item. ``perform`` is not yours to define.
    """

    iterations: Iterations = _DEFAULT
    current_object: Any = None
    arguments: tuple[Any, ...] = ()
    _iteration: Iteration | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        if "perform" in vars(cls):
            raise ConfigurationError(
                f"{cls.__qualname__} is iterable: define build_enumerator and each_iteration, not perform"
            )
        super().__init_subclass__(**options)
        if "build_enumerator" in vars(cls):
            cls._arguments = Arguments(cls.__qualname__, _without_cursor(cls.build_enumerator), bound=True)

    # ------------------------------------------------------------------------------------------------ for you to define

    def build_enumerator(self, *args: Any, cursor: Any) -> Any:
        """An iterator of (object, cursor) from ``cursor`` on, ``None`` at first; see ``penstock.enumerators``."""
        raise ConfigurationError(f"{type(self).__qualname__} must define build_enumerator(*args, cursor)")

    def each_iteration(self, item: Any, *args: Any) -> Any:
        """The work for one object."""
        raise ConfigurationError(f"{type(self).__qualname__} must define each_iteration(object, *args)")

    def on_start(self) -> Any:
        """The first execution begins."""

    def on_resume(self) -> Any:
        """A later one begins."""

    def on_stop(self) -> Any:
        """An execution ends, for whatever reason but an error."""

    def on_cancel(self) -> Any:
        """Somebody cancelled the job; it is over."""

    def on_complete(self) -> Any:
        """The job is over."""

    def around_iteration(self) -> AbstractContextManager[Any]:
        """Around each item."""
        return nullcontext()

    # ------------------------------------------------------------------------------------------------------ for your use

    @property
    def cursor(self) -> Any:
        """Of the present object."""
        return None if self._iteration is None else self._iteration.state.cursor

    @property
    def cancelled(self) -> bool:
        """Whether the job has been cancelled, as far as is known here."""
        return self._iteration is not None and (self._iteration.last or self._iteration.state.cancelled is not None)

    def cancel(self) -> None:
        """Let this be the last item."""
        if self._iteration is not None:
            self._iteration.last = True

    def abort(self) -> NoReturn:
        """End the job here and now, as complete."""
        raise Abort

    async def perform(self, *args: Any) -> None:
        """Iterate. Raises ``Interrupted`` if it is to be run again."""
        self.arguments = args
        self._iteration = Iteration(self, await self.iterations.store.load(self.jid))
        await self._iteration.perform()


class Iteration:
    """One execution of an iterable job, item by item. ``last``: the present item is to be the last."""

    def __init__(self, job: IterableJob, state: IterationState) -> None:
        self._job, self.state, self.last = job, state, False
        self._around, self._context = job.iterations, current()
        self._monotonic = self._around.clock.monotonic
        self._began = self._saved = self._monotonic()
        self._any = False
        self._plain = not inspect.iscoroutinefunction(job.each_iteration)

    async def perform(self) -> None:
        """From the state that was loaded to a state that is saved, or to none."""
        job, state = self._job, self.state
        state.executions += 1
        pairs: Any = await self._run(job.build_enumerator, *job.arguments, cursor=state.cursor)
        if pairs is None:
            logger.info("build_enumerator returned None, the job is skipped")
            return
        if not _is_iterator(pairs):
            raise TypeError(
                f"{type(job).__qualname__}.build_enumerator must return an iterator of (object, cursor), such as a"
                f" generator or one of penstock.enumerators; got {type(pairs).__name__}"
            )
        await self._hook("on_start" if state.executions == 1 else "on_resume")
        try:
            end = await self._iterate(pairs)
        except LostLease:
            raise  # the state is another's by now
        except BaseException:
            await self._rescue()
            raise
        state.runtime += self._monotonic() - self._began
        await self._hook("on_stop")
        if end == "interrupted":
            await self._around.store.save(job.jid, state)
            logger.debug("iteration interrupted at cursor %r", state.cursor)
            raise Interrupted
        await self._hook("on_complete")
        await self._around.store.delete(job.jid)

    async def _iterate(self, pairs: Iterator[Any] | AsyncIterator[Any]) -> End:
        """Go through the items; the end is ``completed`` or ``interrupted``."""
        if self.state.cancelled is not None:
            return await self._cancelled()
        try:
            if self._plain and isinstance(pairs, Iterator):
                return await self._in_bursts(pairs)
            return await self._one_by_one(_async(pairs) if isinstance(pairs, Iterator) else pairs)
        except Abort:
            return "completed"

    async def _in_bursts(self, pairs: Iterator[Any]) -> End:
        """Many items in a thread at one go, until there is something to do here."""
        while True:
            end, pairs = await run_in(self._around.threads, partial(self._burst, pairs))
            ended = await self._looked(end)
            if ended is not None:
                return ended

    def _burst(self, pairs: Iterator[Any]) -> tuple[End, Iterator[Any]]:
        job = self._job
        for item, cursor in pairs:
            end = self._gate(item, cursor)
            if end is not None:
                return end, chain([(item, cursor)], pairs)
            began = self._monotonic()
            with job.around_iteration():
                job.each_iteration(item, *job.arguments)
            self._worked(began)
        return "completed", pairs

    async def _one_by_one(self, pairs: AsyncIterator[Any]) -> End:
        """Each item on the loop; what is plain among what is not, in a thread."""
        job = self._job
        async for item, cursor in pairs:
            end = self._gate(item, cursor)
            if end is not None:
                ended = await self._looked(end)
                if ended is not None:
                    return ended
            began, around = self._monotonic(), job.around_iteration()
            if isinstance(around, AbstractAsyncContextManager):
                async with around:
                    await self._run(job.each_iteration, item, *job.arguments)
            else:
                with around:
                    await self._run(job.each_iteration, item, *job.arguments)
            self._worked(began)
        return "completed"

    def _gate(self, item: Any, cursor: Any) -> End | None:
        """Make an item the present one; whether there is something to do before it is worked on."""
        context, around = self._context, self._around
        self._job.current_object, self.state.cursor = item, cursor
        if context is not None and context.lease_lost:
            raise LostLease
        if self.last:
            return "cancelled"
        now = self._monotonic()
        late = self._any and around.max_runtime is not None and now - self._began > around.max_runtime
        if late or (context is not None and context.stopping):
            return "interrupted"
        return "save" if now - self._saved >= FLUSH_INTERVAL else None

    async def _looked(self, end: End) -> End | None:
        """Do what is to be done between two items: the end of the iteration, or ``None`` to go on."""
        if end == "completed":
            return end
        if end == "cancelled":
            return await self._cancelled()
        self.state.cancelled = await self._around.store.save(self._job.jid, self.state)
        self._saved = self._monotonic()
        if self.state.cancelled is not None:
            return await self._cancelled()
        return None if end == "save" else end

    async def _cancelled(self) -> End:
        await self._hook("on_cancel")
        logger.info("the job has been cancelled")
        return "completed"

    async def _rescue(self) -> None:
        """Save the state, though something has gone wrong."""
        self.state.runtime += self._monotonic() - self._began
        try:
            await self._around.store.save(self._job.jid, self.state)
        except Exception:
            logger.exception("the state of an iteration could not be saved; it is resumed from an older one")

    def _worked(self, began: float) -> None:
        self._any = True  # each execution gets on, however long it took to begin
        took = self._monotonic() - began
        if took > self._around.slow:
            logger.warning("one iteration took %.1f s, more than the %g s of a stop", took, self._around.slow)

    async def _hook(self, name: str) -> None:
        if getattr(type(self._job), name) is not getattr(IterableJob, name):
            await self._run(getattr(self._job, name))

    async def _run(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call something of the job's: in a thread if it is plain, so that it may block."""
        if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
            result = call(*args, **more)
        else:
            result = await run_in(self._around.threads, partial(call, *args, **more))
        return await result if inspect.isawaitable(result) else result


def _without_cursor(build: Callable[..., Any]) -> Callable[..., Any]:
    """Something with the parameters that a job is enqueued with."""

    def shape(*_args: Any) -> None: ...

    signature = inspect.signature(build)
    parameters = [each for each in signature.parameters.values() if each.name != "cursor"]
    shape.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # inspect looks there
    return shape


def _is_iterator(pairs: Any) -> TypeGuard[Iterator[Any] | AsyncIterator[Any]]:
    return isinstance(pairs, Iterator | AsyncIterator)


async def _async(pairs: Iterator[Any]) -> AsyncGenerator[Any]:
    for pair in pairs:
        yield pair
