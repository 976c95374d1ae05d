"""App: named connections to brokers, and jobs pushed to, popped from and worked off them.

``App("sqlite:///jobs.db")`` has one connection, called ``default``. ``push`` says which job, the job and the chain behind
the push say where and when; ``worker`` is what runs them. A connection is opened when it is first used.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Self, TypeVar, cast

from ..audit import Audit
from ..broker import Broker
from ..consumer import Consumer
from ..errors import ConfigurationError, PublishError
from ..job import JOBS, FunctionJob, Job
from ..job import job as function_job
from ..job_terms import Terms, lanes
from ..outcome import ACK, DeadLetter, Release
from ..producer import Producer, Send
from ..services import Service
from ..sidekiq.client import Client
from ..store import Store, SupportsBudgets
from ..telemetry import TELEMETRY
from ..worker import Worker
from .connections import Connections
from .holding import Holding
from .inspecting import Inspecting
from .pushing import Push, checked
from .scheduling import Scheduling
from .working import WorkerOptions, consumer_of

J = TypeVar("J", bound=Job)
P = ParamSpec("P")
R = TypeVar("R")


class App(Inspecting, Scheduling):
    """A manager of queues.

    ``connections``: brokers or their URLs by name, or a single one, which is called ``default``; without any, this
    process's memory. ``default``: the connection of jobs that name none. ``store``: where rate limits are counted and
    schedules kept, or its URL; by default beside the connection. ``persistence``: an ``Archive``, for a row of what
    happens to each job. ``worker_options``: what ``worker`` and ``penstock worker`` run; ``auto_start_worker``: in this
    process as well. As a context manager it starts that worker and closes what was opened.
    """

    def __init__(
        self,
        connections: str | Broker[Any] | Mapping[str, str | Broker[Any]] | None = None,
        *,
        default: str | None = None,
        store: str | Store | None = None,
        persistence: Audit | None = None,
        worker_options: WorkerOptions | None = None,
        auto_start_worker: bool = False,
    ) -> None:
        self._connections = Connections(connections, default, store, persistence)
        self.worker_options = worker_options or WorkerOptions()
        self._auto_start = auto_start_worker
        self._holdings: dict[str, Holding] = {}
        self._worker: Worker | None = None

    @property
    def default(self) -> str:
        """The connection of jobs that name none."""
        return self._connections.known(None)

    @property
    def connections(self) -> tuple[str, ...]:
        """The names of the connections."""
        return self._connections.names

    def broker(self, connection: str | None = None) -> Broker[Any]:
        """The broker of a connection, by default of the default one. Raises ``ConfigurationError``."""
        return self._connections.broker(connection)

    def client(self, connection: str | None = None) -> Client:
        """What pushes jobs with ``perform`` to a connection; ``app.client().install()`` makes it the process's own."""
        return self._connections.client(connection)

    def job(self, *, connection: str | None = None, **options: Any) -> Callable[[Callable[P, R]], FunctionJob[P, R]]:
        """Make a job of a function, pushed to a connection of this app: ``@app.job(queue="images")``."""
        return function_job(pool=self.client(connection), **options)

    def register_job_classes(self, classes: Iterable[type[Job]]) -> None:
        """Make sure that workers know these classes. Defining one is enough; here it is checked as well."""
        for cls in cast("Iterable[Any]", classes):
            if not (isinstance(cls, type) and issubclass(cls, Job)):
                raise ConfigurationError(f"a job class is a subclass of penstock.Job, got {cls!r:.100}")
            cls.fields()
            JOBS.add(cls, cls.wire_name)

    # ---------------------------------------------------------------------------------------------------------- pushing

    def push(self, job: J) -> Push[J]:
        """Push a job: ``await app.push(job)``, or ``await app.push(job).on_queue("emails").delay(60)``.

        Returns the job, its ``jid`` set, once the broker has it. Raises as ``Producer.send`` does.
        """
        return Push(checked(job), self._push)

    async def push_many(self, jobs: Iterable[J]) -> list[J]:
        """Push many jobs in as few round trips as possible, each as it says itself.

        Raises ``PublishError`` with the fate of each when only some were refused; nothing is sent if one of them cannot
        be written.
        """
        given = [checked(job) for job in jobs]
        parts: dict[tuple[str, str], list[int]] = {}
        for number, job in enumerate(given):
            job.fields().encode(job)
            place = (self._connections.known(job.terms.connection), job.terms.lane)
            parts.setdefault(place, []).append(number)
        fates: list[str | Exception] = [""] * len(given)
        for place, numbers in parts.items():
            sends = [_send(given[number], given[number].terms) for number in numbers]
            for number, fate in zip(numbers, await _fates(self._connections.producer(*place), sends), strict=True):
                fates[number] = fate
        if any(isinstance(fate, Exception) for fate in fates):
            raise PublishError(fates)
        return given

    async def _push(self, job: J, terms: Terms) -> J:
        send = _send(job, terms)
        producer = self._connections.producer(self._connections.known(terms.connection), terms.lane)
        await producer.send(send.payload, type=send.type, key=send.key, delay=send.delay, headers=send.headers)
        return job

    # ---------------------------------------------------------------------------------------------------------- popping

    async def pop(self, queue: str = "default", connection: str | None = None) -> Job | None:
        """Take the next job of a queue, the most urgent first, to be settled by ``complete``, ``fail`` or ``release``.

        Until then it is this process's, for as long as the process lives. What cannot be read, or is of no class that
        is known here, becomes a dead letter, and the next one is taken.
        """
        name = self._connections.known(connection)
        if name not in self._holdings:
            broker, archive = self._connections.broker(name), self._connections.archive
            self._holdings[name] = Holding(broker, archive, self._clock, TELEMETRY)
        return await self._holdings[name].pop(lanes(queue), self.worker_options.group)

    async def complete(self, job: Job) -> None:
        """A popped job is done. Raises ``LostLease`` if another owner has it by now."""
        await self._held(job).settle(job, ACK)

    async def fail(self, job: Job, error: BaseException) -> None:
        """A popped job has failed for good: it becomes a dead letter. Raises as ``complete`` does."""
        await self._held(job).settle(job, DeadLetter("failed", error))

    async def release(self, job: Job, delay: float = 0.0) -> None:
        """Give a popped job back, as if it had never been popped. Raises as ``complete`` does."""
        await self._held(job).settle(job, Release(delay))

    def _held(self, job: Job) -> Holding:
        for holding in self._holdings.values():
            if job in holding:
                return holding
        raise ConfigurationError(f"{job!r:.100} was not popped from this app, or is settled already")

    # ------------------------------------------------------------------------------------------------------------- work

    def consumer_for(self, said: Mapping[str, Any]) -> Consumer[Any]:
        """What ``worker_options`` say, or, where it says something else, the command line."""
        return self.consumer(replace(self.worker_options, **said))

    def consumer(self, options: WorkerOptions | None = None) -> Consumer[Any]:
        """One consumer of the queues that the options name."""
        options = options or self.worker_options
        return self._consumer(self.broker(options.connection), options)

    def worker(self, options: WorkerOptions | None = None, **of_the_worker: Any) -> Worker:
        """A worker of its own; the keywords are those of ``Worker``."""
        return Worker(self.consumer(options), **of_the_worker)

    async def start_worker(self, options: WorkerOptions | None = None) -> Worker:
        """Run a worker in this process, until ``stop_worker`` or ``close``."""
        if self._worker is not None:
            raise ConfigurationError("this app's worker is already running; stop_worker() comes first")
        options = options or self.worker_options
        worker = Worker(self._consumer(self._connections.another(options.connection), options))
        await worker.start()
        self._worker = worker
        return worker

    async def stop_worker(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 as of Worker.stop
        """Stop it; true if nothing had to be interrupted, or none runs."""
        worker, self._worker = self._worker, None
        return True if worker is None else await worker.stop(timeout)

    def _consumer(self, broker: Broker[Any], options: WorkerOptions) -> Consumer[Any]:
        budgets: SupportsBudgets | None = None
        if options.rate_limits or options.key_rate_limits:
            budgets = self._connections.store("rate limits", options.connection)
        return consumer_of(broker, options, budgets, self._connections.archive, self._services())

    def _services(self) -> list[Service]:
        """What runs beside a worker's consumer: the schedules, where they can be kept."""
        try:
            return [self.schedules]
        except ConfigurationError:
            return []

    async def __aenter__(self) -> Self:
        if self._auto_start:
            await self.start_worker()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the worker, give back what was popped and not settled, and disconnect. Idempotent."""
        await self.stop_worker()
        for holding in self._holdings.values():
            await holding.close()
        await self._connections.close()


def _send(job: Job, terms: Terms) -> Send[Any]:
    """A job pushed again is a new one. Its id is ours: a broker may give a message another one for each try."""
    job.jid = secrets.token_hex(12)
    return Send(job, job.wire_name, terms.group, terms.delay or 0.0, {"jid": job.jid, **terms.headers()})


async def _fates(producer: Producer[Any], sends: Sequence[Send[Any]]) -> Sequence[str | Exception]:
    """What became of each."""
    try:
        return await producer.send_many(sends)
    except PublishError as error:
        return error.results
    except Exception as error:  # noqa: BLE001 the other queues' jobs are sent all the same
        return [error] * len(sends)
