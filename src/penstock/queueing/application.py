"""App: named connections to brokers, and jobs pushed to, popped from and worked off them.

``App("sqlite:///jobs.db")`` has one connection, called ``default``. ``push`` says which job, the job and the chain behind
the push say where and when; ``worker`` is what runs them. A connection is opened when it is first used.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, Self, TypeVar, cast

from ..app import open_broker, open_store
from ..broker import Broker
from ..codecs.json import JsonCodec
from ..consumer import Consumer
from ..errors import ConfigurationError, DecodeError, InvalidURL, PublishError, UnknownType
from ..job import JOBS, FunctionJob, Job
from ..job import job as function_job
from ..job_terms import Terms, lanes
from ..message import Delivery
from ..outcome import ACK, DeadLetter, Release
from ..producer import Producer, Send
from ..services import Service
from ..sidekiq.client import Client
from ..store import Store, SupportsBudgets, SupportsTables
from ..telemetry import TELEMETRY
from ..worker import Worker
from .handling import begin, job_id
from .holding import Holding
from .inspecting import Inspecting
from .pushing import Push
from .scheduling import Scheduling
from .working import WorkerOptions, consumer_of

J = TypeVar("J", bound=Job)
P = ParamSpec("P")
R = TypeVar("R")

PAGE = 500


class App(Inspecting, Scheduling):
    """A manager of queues.

    ``connections``: brokers or their URLs by name, or a single one, which is called ``default``; without any, this
    process's memory. ``default``: the connection of jobs that name none. ``store``: where rate limits are counted, or
    its URL; by default the worker's own connection, where it can. ``worker_options``: what ``worker`` and
    ``penstock worker`` run; ``auto_start_worker``: run it in this process as well, while the app is open.
    As a context manager it starts that worker and closes what was opened.
    """

    def __init__(
        self,
        connections: str | Broker[Any] | Mapping[str, str | Broker[Any]] | None = None,
        *,
        default: str | None = None,
        store: str | Store | None = None,
        worker_options: WorkerOptions | None = None,
        auto_start_worker: bool = False,
    ) -> None:
        named = connections if isinstance(connections, Mapping) else {"default": connections or "memory://"}
        if not named:
            raise ConfigurationError("an App needs at least one connection, such as App('sqlite:///jobs.db')")
        self._urls = {name: given for name, given in named.items() if isinstance(given, str)}
        self._brokers: dict[str, Broker[Any]] = {
            name: open_broker(given) if isinstance(given, str) else given for name, given in named.items()
        }
        self.default = default if default is not None else "default" if "default" in named else next(iter(named))
        self._known(self.default)
        self.worker_options = worker_options or WorkerOptions()
        self._auto_start = auto_start_worker
        self._store = open_store(store) if isinstance(store, str) else store
        self._producers: dict[tuple[str, str], Producer[Any]] = {}
        self._clients: dict[str, Client] = {}
        self._holdings: dict[str, Holding] = {}
        self._worker: Worker | None = None

    # ------------------------------------------------------------------------------------------------------ connections

    @property
    def connections(self) -> tuple[str, ...]:
        """The names of the connections."""
        return tuple(self._brokers)

    def broker(self, connection: str | None = None) -> Broker[Any]:
        """The broker of a connection, by default of the default one. Raises ``ConfigurationError``."""
        return self._brokers[self._known(connection)]

    def client(self, connection: str | None = None) -> Client:
        """What pushes jobs with ``perform`` to a connection; ``app.client().install()`` makes it the process's own."""
        name = self._known(connection)
        if name not in self._clients:
            self._clients[name] = Client(self._brokers[name])
        return self._clients[name]

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
        self._check(job)
        return Push(job, self._push)

    async def push_many(self, jobs: Iterable[J]) -> list[J]:
        """Push many jobs in as few round trips as possible, each as it says itself.

        Raises ``PublishError`` with the fate of each when only some were refused; nothing is sent if one of them cannot
        be written.
        """
        given = [*jobs]
        for job in given:
            self._check(job)
        parts: dict[tuple[str, str], list[int]] = {}
        for number, job in enumerate(given):
            terms = job.terms
            parts.setdefault((self._known(terms.connection), terms.lane), []).append(number)
            job.fields().encode(job)
        fates: list[str | Exception] = [""] * len(given)
        for (connection, queue), numbers in parts.items():
            sends = [_send(given[number], given[number].terms) for number in numbers]
            for number, fate in zip(numbers, await _fates(self._producer(connection, queue), sends), strict=True):
                fates[number] = fate
        if any(isinstance(fate, Exception) for fate in fates):
            raise PublishError(fates)
        return given

    async def _push(self, job: J, terms: Terms) -> J:
        send = _send(job, terms)
        producer = self._producer(self._known(terms.connection), terms.lane)
        await producer.send(send.payload, type=send.type, key=send.key, delay=send.delay, headers=send.headers)
        return job

    # ---------------------------------------------------------------------------------------------------------- popping

    async def pop(self, queue: str = "default", connection: str | None = None) -> Job | None:
        """Take the next job of a queue, the most urgent first, to be settled by ``complete``, ``fail`` or ``release``.

        Until then it is this process's, for as long as the process lives. What cannot be read, or is of no class that
        is known here, becomes a dead letter, and the next one is taken.
        """
        holding = self._holding(self._known(connection))
        while (delivery := await holding.take(lanes(queue), self.worker_options.group)) is not None:
            job = await _job_of(delivery, holding)
            if job is not None:
                holding.hold(job, delivery)
                return job
        return None

    async def complete(self, job: Job) -> None:
        """A popped job is done. Raises ``LostLease`` if another owner has it by now."""
        await self._held(job).settle(job, ACK)

    async def fail(self, job: Job, error: BaseException) -> None:
        """A popped job has failed for good: it becomes a dead letter. Raises as ``complete`` does."""
        await self._held(job).settle(job, DeadLetter("failed", error))

    async def release(self, job: Job, delay: float = 0.0) -> None:
        """Give a popped job back, as if it had never been popped. Raises as ``complete`` does."""
        await self._held(job).settle(job, Release(delay))

    # ------------------------------------------------------------------------------------------------------------- work

    def consumer_for(self, said: Mapping[str, Any]) -> Consumer[Any]:
        """What ``worker_options`` say, or, where it says something else, the command line."""
        return self.consumer(replace(self.worker_options, **said))

    def consumer(self, options: WorkerOptions | None = None) -> Consumer[Any]:
        """One consumer of the queues that the options name."""
        options = options or self.worker_options
        return consumer_of(self.broker(options.connection), options, self._budgets(options), self._services())

    def worker(self, options: WorkerOptions | None = None, **of_the_worker: Any) -> Worker:
        """A worker of its own; the keywords are those of ``Worker``."""
        return Worker(self.consumer(options), **of_the_worker)

    async def start_worker(self, options: WorkerOptions | None = None) -> Worker:
        """Run a worker in this process, until ``stop_worker`` or ``close``."""
        if self._worker is not None:
            raise ConfigurationError("this app's worker is already running; stop_worker() comes first")
        options = options or self.worker_options
        name = self._known(options.connection)
        broker = self._brokers[name]
        if name in self._urls and broker.capabilities.shared:  # connections of its own, which it closes
            broker = open_broker(self._urls[name])
        worker = Worker(consumer_of(broker, options, self._budgets(options), self._services()))
        await worker.start()
        self._worker = worker
        return worker

    async def stop_worker(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 as of Worker.stop
        """Stop it; true if nothing had to be interrupted, or none runs."""
        worker, self._worker = self._worker, None
        return True if worker is None else await worker.stop(timeout)

    # ------------------------------------------------------------------------------------------------------------- life

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
        if self._store is not None:
            await self._store.close()
        await asyncio.gather(*(broker.close() for broker in self._brokers.values()))

    # ---------------------------------------------------------------------------------------------------------- private

    def _known(self, connection: str | None) -> str:
        name = self.default if connection is None else connection
        if name not in self._brokers:
            raise ConfigurationError(f"there is no connection {name!r}; there are {', '.join(self._brokers)}")
        return name

    def _services(self) -> list[Service]:
        """What runs beside a worker's consumer: the schedules, where they can be kept."""
        try:
            return [self.schedules]
        except ConfigurationError:
            return []

    def _budgets(self, options: WorkerOptions) -> SupportsBudgets | None:
        """Where the rate limits of a worker are counted. Raises ``ConfigurationError``."""
        if not options.rate_limits and not options.key_rate_limits:
            return None
        budgets: SupportsBudgets = self._beside(self._known(options.connection), "rate limits need")
        return budgets

    def _beside(self, connection: str, who: str) -> Any:
        """The state that all workers share: the app's store, or one beside the broker of a connection."""
        if self._store is None and connection in self._urls:
            with contextlib.suppress(InvalidURL):
                self._store = open_store(self._urls[connection])
        store: Any = self._store
        if not (isinstance(store, SupportsBudgets) and isinstance(store, SupportsTables)):
            raise ConfigurationError(
                f"{who} a place that all workers share, and beside {self._brokers[connection].url} there is none;"
                " say App(..., store='redis://…')"
            )
        return store

    def _check(self, job: Any) -> None:
        if not isinstance(job, Job):
            raise ConfigurationError(f"push takes an instance of a subclass of penstock.Job, got {job!r:.100}")
        job.fields()

    def _producer(self, connection: str, queue: str) -> Producer[Any]:
        name = (connection, queue)
        if name not in self._producers:
            self._producers[name] = Producer(self._brokers[connection], queue, object, codec=_CODEC)
        return self._producers[name]

    def _holding(self, connection: str) -> Holding:
        if connection not in self._holdings:
            self._holdings[connection] = Holding(self._brokers[connection], self._clock, TELEMETRY)
        return self._holdings[connection]

    def _held(self, job: Job) -> Holding:
        for holding in self._holdings.values():
            if job in holding:
                return holding
        raise ConfigurationError(f"{job!r:.100} was not popped from this app, or is settled already")


class _JobCodec(JsonCodec):
    """Any job, by the codec of its class."""

    def encode(self, payload: Any) -> bytes:
        return cast("Job", payload).fields().encode(payload)


_CODEC = _JobCodec()


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


async def _job_of(delivery: Delivery[Any], holding: Holding) -> Job | None:
    """The job in a message; what is none becomes a dead letter."""
    try:
        return _understood(delivery)
    except Exception as error:  # noqa: BLE001 whatever is wrong with it, it is not lost
        reason = "unknownType" if isinstance(error, UnknownType) else "undecodable"
        await holding.refuse(delivery, DeadLetter(reason, error))
        return None


def _understood(delivery: Delivery[Any]) -> Job:
    cls = JOBS.resolve(delivery.message.type)
    if delivery.defect is not None:
        raise DecodeError(delivery.defect)
    if cls is None:
        raise UnknownType(f"no job class is registered as {delivery.message.type!r}")
    job: Job = cls.fields().decode(delivery.message.body)
    begin(job, job_id(delivery.message), delivery.attempt + 1)
    return job
