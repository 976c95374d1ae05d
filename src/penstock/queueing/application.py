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
from ..broker import Broker, Outgoing
from ..clock import SYSTEM_CLOCK
from ..codecs.json import JsonCodec
from ..consumer import Consumer
from ..errors import ConfigurationError, DecodeError, InvalidURL, PublishError, UnknownType
from ..inspector import Inspector
from ..job import JOBS, FunctionJob, Job
from ..job import job as function_job
from ..job_terms import Terms, lanes
from ..message import Delivery, Message
from ..outcome import ACK, DeadLetter, Release
from ..producer import Producer, Send
from ..services import Service
from ..sidekiq.client import Client
from ..store import Store, SupportsBudgets, SupportsTables
from ..telemetry import TELEMETRY
from ..worker import Worker
from .failed import FailedJob, failed_job
from .handling import begin, job_id
from .holding import Holding
from .pushing import Push
from .recurring import REMEMBERED, Recurring, Schedules
from .working import WorkerOptions, consumer_of

J = TypeVar("J", bound=Job)
P = ParamSpec("P")
R = TypeVar("R")

PAGE = 500


class App:
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
        self._schedules: Schedules | None = None
        self._clock = SYSTEM_CLOCK
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

    # -------------------------------------------------------------------------------------------------------- recurring

    @property
    def schedules(self) -> Schedules:
        """The recurring jobs of all apps with the same store. Raises ``ConfigurationError`` if it can keep none."""
        if self._schedules is None:
            store = self._beside(self.default, "recurring jobs need")
            self._schedules = Schedules(store, store, self._recur, self._clock)
        return self._schedules

    async def schedule(
        self, ident: str, cron: str, job: Job, *, timezone: str = "UTC", enabled: bool | None = None
    ) -> Recurring:
        """Push ``job`` again and again, whenever ``cron`` is due: an id of yours, five fields, or six with seconds.

        Workers of this app fire it, each moment once however many they are; the same id puts the new schedule in the
        place of the old, which stays disabled if it was, unless ``enabled`` says otherwise. Raises
        ``ConfigurationError`` for what is no cron expression or time zone.
        """
        self._check(job)
        terms = job.terms
        return await self.schedules.save(
            Recurring(
                id=ident,
                cron=cron,
                timezone=timezone,
                connection=self._known(terms.connection),
                queue=terms.lane,
                name=job.wire_name,
                body=job.fields().encode(job).decode(),
                headers=terms.headers(),
                group=terms.group,
            ),
            enabled=enabled,
        )

    async def _recur(self, schedule: Recurring, jid: str) -> None:
        broker = self.broker(schedule.connection)
        headers = {**schedule.headers, "jid": jid, "schedule": schedule.id}
        await broker.open()
        message = Message(
            type=schedule.name,
            body=schedule.body.encode(),
            key=schedule.group or jid,
            enqueued_at=self._clock.time(),
            headers=headers,
        )
        once = REMEMBERED if schedule.group is None and broker.capabilities.idempotent else None
        await broker.publish([Outgoing(destination=schedule.queue, message=message, once=once)])

    # ------------------------------------------------------------------------------------------------------- inspection

    async def size(self, queue: str = "default", connection: str | None = None) -> int:
        """Jobs waiting in a queue, of every priority; neither those that run nor those that are delayed."""
        stats = await (await self._inspector(connection)).stats(*lanes(queue))
        return sum(max(each.size - max((group.leased for group in each.groups), default=0), 0) for each in stats)

    async def clear(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete everything that waits in a queue, now or later; how many. What runs, and what is dead, stays."""
        inspector = await self._inspector(connection)
        return sum([await inspector.purge(name) for name in lanes(queue)])

    async def get_failed(
        self, queue: str = "default", start: int = 0, end: int = -1, connection: str | None = None
    ) -> list[FailedJob]:
        """The dead letters of a queue, the newest first; ``start`` and ``end`` as of a Redis list, both included."""
        inspector = await self._inspector(connection)
        letters = (await _failed_in(inspector, queue))[::-1]
        return letters[start:] if end == -1 else letters[start : end + 1 if end >= 0 else end + 1 or None]

    async def retry_failed(self, queue: str = "default", count: int = 1, connection: str | None = None) -> int:
        """Put the ``count`` oldest dead letters back, as fresh jobs; how many there were."""
        return await self._of_the_dead(queue, count, connection, Inspector.requeue)

    async def clear_failed(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete the dead letters of a queue for good; how many there were."""
        return await self._of_the_dead(queue, None, connection, Inspector.purge_dead)

    async def _of_the_dead(self, queue: str, count: int | None, connection: str | None, act: Any) -> int:
        inspector = await self._inspector(connection)
        letters = await _failed_in(inspector, queue)
        done = 0
        for name in lanes(queue):
            ids = [letter.letter for letter in letters[:count] if letter.queue == name]
            done += await act(inspector, name, ids) if ids else 0
        return done

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

    async def _inspector(self, connection: str | None) -> Inspector:
        broker = self.broker(connection)
        await broker.open()
        return Inspector(broker)


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


async def _failed_in(inspector: Inspector, queue: str) -> list[FailedJob]:
    """The dead letters of a queue, of every priority, the oldest first."""
    found = [failed_job(letter, name) for name in lanes(queue) async for letter in inspector.each_dead(name)]
    return sorted(found, key=_failed_at)


def _failed_at(job: FailedJob) -> float:
    return job.failed_at or 0.0


def _understood(delivery: Delivery[Any]) -> Job:
    cls = JOBS.resolve(delivery.message.type)
    if delivery.defect is not None:
        raise DecodeError(delivery.defect)
    if cls is None:
        raise UnknownType(f"no job class is registered as {delivery.message.type!r}")
    job: Job = cls.fields().decode(delivery.message.body)
    begin(job, job_id(delivery.message), delivery.attempt + 1)
    return job
