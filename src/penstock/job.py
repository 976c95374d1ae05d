"""Jobs: a class with ``perform``, or a function, that some worker runs later.

``HardJob.perform_async(1, "x")`` makes a payload of the class's options and the arguments and gives it to the client
(``job_route``). A worker finds the class by its wire name (``job_registry``), makes an instance for each execution, and
calls ``perform``: a coroutine on its loop, a plain function in a thread. The same on every broker; on a
``sidekiq+redis://`` one Ruby may be on either side.

Or a class with ``handle``, whose instances carry their own data: ``await app.push(SendMail("a@x"))`` (``queueing``).
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import new_class
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

from .context import current
from .errors import ConfigurationError
from .job_arguments import Arguments
from .job_fields import JobFields, declared, handles
from .job_moment import Moment
from .job_options import DEFAULTS, checked
from .job_registry import Jobs
from .job_setter import Setter, SyncSetter
from .job_terms import Fluent, Terms, terms_in

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

DISCARD: Final = "discard"
KILL: Final = "kill"

RetryIn: TypeAlias = Callable[[int, BaseException, dict[str, Any]], Any]
Exhausted: TypeAlias = Callable[[dict[str, Any], BaseException], Literal["discard"] | None]


class Performs(Protocol[P]):
    """A class with a ``perform``."""

    def perform(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class _Sync:
    """``HardJob.sync``: a setter of the class that was asked."""

    def __get__(self, instance: object, owner: type[Performs[P]]) -> SyncSetter[P]:
        return _setter(owner, {}).sync


@dataclass_transform()
class Job(Fluent):
    """Subclass it and define ``perform``, with positional arguments that JSON can hold; or fields and ``handle()``.

    Options are given as keywords of the class, as ``sidekiq_options`` in its body, or both, and are inherited.
    ``wire_name``: the name that payloads carry, by default the class's own; to be run by Ruby, the Ruby constant.
    ``aliases``: former names that payloads may still carry. ``abstract=True``: only to be inherited from.
    """

    sidekiq_options: ClassVar[dict[str, Any]] = dict(DEFAULTS)
    sidekiq_retry_in: ClassVar[RetryIn | None] = None
    sidekiq_retries_exhausted: ClassVar[Exhausted | None] = None
    wire_name: ClassVar[str] = "Job"
    sync: ClassVar[_Sync] = _Sync()

    perform: Callable[..., Any]
    handle: Callable[[], Any]
    jid: str = ""
    tries: int = 0
    _arguments: ClassVar[Arguments | None] = None
    _fields: ClassVar[JobFields | None] = None
    _declared: ClassVar[bool | None] = None
    _own_terms: ClassVar[Terms] = Terms()

    def __init_subclass__(
        cls, *, wire_name: str | None = None, aliases: Sequence[str] = (), abstract: bool = False, **options: Any
    ) -> None:
        super().__init_subclass__()
        own: Mapping[str, Any] = vars(cls).get("sidekiq_options", {})
        if own or options:
            inherited: Mapping[str, Any] = getattr(super(cls, cls), "sidekiq_options", DEFAULTS)
            cls.sidekiq_options = {**inherited, **checked(own), **checked(options)}
        if "perform" in vars(cls):
            cls._arguments = _arguments_of(cls)
        if handles(cls):
            cls._declared, cls._fields = declared(cls), None
            cls._own_terms = terms_in(cls.sidekiq_options)
        cls.wire_name = wire_name or vars(cls).get("wire_name", cls.__name__)
        if not abstract and (cls._arguments is not None or cls._declared is not None):
            JOBS.add(cls, cls.wire_name, *aliases)

    # ------------------------------------------------------------------------------------------------------ an instance

    @property
    def logger(self) -> logging.Logger:
        """The logger of jobs; its lines carry the running job's fields."""
        return _logger

    def failed(self, error: BaseException) -> Any:
        """Called when a job with ``handle`` has failed for the last time; may be ``async``. What it raises is logged."""

    def interrupted(self) -> bool:
        """Whether the worker wants to stop and would be glad of an early end."""
        context = current()
        return context is not None and context.stopping

    # -------------------------------------------------------------------------------------- jobs that carry their data

    @classmethod
    def fields(cls) -> JobFields:
        """How its jobs are written and read. Raises ``ConfigurationError`` if the class has no ``handle``."""
        if cls._declared is None:
            raise ConfigurationError(f"{cls.__qualname__} has no handle; define handle(self) in it")
        if cls._fields is None:  # not before the names in its annotations exist
            cls._fields = JobFields(cls, typed=cls._declared)
        return cls._fields

    @classmethod
    def carries_data(cls) -> bool:
        """Whether it is a class with ``handle``."""
        return cls._declared is not None

    @property
    def terms(self) -> Terms:
        """On which terms it is queued: what was said of it, and of its class."""
        return self._terms.over(self._own_terms)

    # ------------------------------------------------------------------------------------------------------- enqueueing

    @classmethod
    async def perform_async(cls: type[Performs[P]], *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job; its id, once the broker has it, or ``None`` if a middleware did not let it pass."""
        return await _setter(cls, {}).perform_async(*args, **kwargs)

    @classmethod
    async def perform_in(cls: type[Performs[P]], interval: Moment, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job to run after ``interval`` seconds, or at that moment if it is 1e9 or more."""
        return await _setter(cls, {}).perform_in(interval, *args, **kwargs)

    @classmethod
    async def perform_at(cls: type[Performs[P]], interval: Moment, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """The same as ``perform_in``: both take an interval and a moment."""
        return await _setter(cls, {}).perform_in(interval, *args, **kwargs)

    @classmethod
    async def perform_bulk(cls, jobs: Iterable[Sequence[Any]], **options: Any) -> list[str | None]:
        """Enqueue a job for each list of arguments, in as few round trips as possible.

        Options: those of a class, and ``at``, ``batch_size``, ``spread_interval`` (see ``Client.push_bulk``).
        """
        return await _setter(cls, {}).perform_bulk(jobs, **options)

    @classmethod
    async def perform_inline(cls: type[Performs[P]], *args: P.args, **kwargs: P.kwargs) -> bool | None:
        """Run the job here and now, with all middleware; ``None`` if a middleware did not let it pass."""
        return await _setter(cls, {}).perform_inline(*args, **kwargs)

    perform_sync = perform_inline

    @classmethod
    def set(cls: type[Performs[P]], **options: Any) -> Setter[P]:
        """The job with options of the moment, to be enqueued by what this returns."""
        return _setter(cls, options)

    # ---------------------------------------------------------------------------------------------------------- options

    @classmethod
    def set_sidekiq_options(cls, **options: Any) -> None:
        """Change options of the class; the others stay as they are."""
        cls.sidekiq_options = {**cls.sidekiq_options, **checked(options)}

    @classmethod
    def queue_as(cls, name: str) -> None:
        """The queue that the class's jobs go to."""
        cls.set_sidekiq_options(queue=name)

    @classmethod
    def retry_in(cls, hook: F) -> F:
        """Ask ``hook(count, error, payload)`` when to try again: seconds, ``DISCARD``, ``KILL``, or ``None`` for the usual curve.

        ``count`` is 0 after the first failure. Usable as a decorator.
        """
        cls.sidekiq_retry_in = staticmethod(_hook("retry_in", hook))
        return hook

    @classmethod
    def retries_exhausted(cls, hook: F) -> F:
        """Call ``hook(payload, error)`` when a job has failed for the last time; ``DISCARD`` keeps it out of the dead.

        Usable as a decorator.
        """
        cls.sidekiq_retries_exhausted = staticmethod(_hook("retries_exhausted", hook))
        return hook


JOBS: Final[Jobs[Job]] = Jobs()
_logger = logging.getLogger("penstock.job")


class FunctionJob(Setter[P], Generic[P, R]):
    """A function that is a job as well: call it and it runs, ``perform_async`` and it is enqueued."""

    def __init__(self, function: Callable[P, R], job: type[Job]) -> None:
        super().__init__(job, _arguments_of(job), {})
        self.function, self.job = function, job
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def retry_in(self, hook: F) -> F:
        """As of a class."""
        return self.job.retry_in(hook)

    def retries_exhausted(self, hook: F) -> F:
        """As of a class."""
        return self.job.retries_exhausted(hook)


def job(
    *, wire_name: str | None = None, aliases: Sequence[str] = (), **options: Any
) -> Callable[[Callable[P, R]], FunctionJob[P, R]]:
    """Make a job of a function: ``@job(queue="images")``. Its wire name is by default the function's name."""

    def decorate(function: Callable[P, R]) -> FunctionJob[P, R]:
        place = {"__module__": function.__module__, "__qualname__": function.__qualname__, "__doc__": function.__doc__}
        body: dict[str, Any] = {"perform": staticmethod(function), **place}
        says: dict[str, Any] = {"wire_name": wire_name, "aliases": aliases, **options}
        made = new_class(function.__name__, (Job,), says, lambda names: names.update(body))
        return FunctionJob(function, made)

    return decorate


def _setter(cls: type[Performs[P]], options: Mapping[str, Any]) -> Setter[P]:
    arguments: Arguments | None = getattr(cls, "_arguments", None)
    if arguments is None:
        raise ConfigurationError(f"{cls.__qualname__} has no perform; define perform(self, ...) in it")
    return Setter(cls, arguments, options)


def _arguments_of(cls: type[Job]) -> Arguments:
    perform = inspect.getattr_static(cls, "perform")
    if isinstance(perform, staticmethod):
        return Arguments(cls.__qualname__, perform.__func__, bound=False)
    if not inspect.isfunction(perform):
        raise ConfigurationError(f"{cls.__qualname__}.perform must be a function, got {perform!r:.100}")
    return Arguments(cls.__qualname__, perform, bound=True)


def _hook(name: str, hook: Any) -> Any:
    if not callable(hook):
        raise ConfigurationError(f"{name} takes a function, got {hook!r:.100}")
    return hook
