"""What runs an app's jobs: one consumer for all lanes of its queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..audit import Audit
from ..broker import Broker
from ..checks import at_least_one, one_of
from ..consumer import Consumer
from ..errors import ConfigurationError
from ..executor import Limits
from ..intake import Prefetch
from ..job import JOBS, Job
from ..job_terms import lanes
from ..message import Delivery, Envelope
from ..middleware.ratelimit import RateLimit
from ..outcome import DeadLetter
from ..pipeline import ConsumeMiddleware
from ..plan import Claim, Options
from ..queues import Queues
from ..rate import Rate, rate_of
from ..rates import Budget, Rates
from ..services import Service
from ..sidekiq.job_payload import ArgsCodec
from ..sidekiq.processor import MAX_CRASHES, UNLIMITED, Processor, ProcessorOptions
from ..store import SupportsBudgets
from ..threads import Threads
from .handling import MAX_ATTEMPTS, Handling, OnFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker of an app does.

    ``queues``: in this order, strictly; each with its four priorities. ``connection``: the app's default one, if none is
    named. ``concurrency``: jobs at once. ``max_attempts``: for jobs that do not say. ``timeout``: seconds of one
    execution; a coroutine is cancelled then. ``on_failed``: called with each job that failed for the last time, and the
    error. ``group``: readers that share the work. ``rate_limits``: for each queue that has one, over all workers, and
    charged for jobs that are taken; ``{"limit": 10, "window": 60}`` is ten in any minute. ``key_rate_limits``: the same
    for each group of jobs (``in_group``) by itself; what has none left goes back until it has.
    """

    queues: Sequence[str] = ("default",)
    connection: str | None = None
    concurrency: int = 10
    max_attempts: int = MAX_ATTEMPTS
    timeout: float | None = None
    on_failed: OnFailed | None = None
    group: str = "default"
    rate_limits: Mapping[str, Rate | Mapping[str, float]] = field(default_factory=dict[str, "Rate"])
    key_rate_limits: Mapping[str, Rate | Mapping[str, float]] = field(default_factory=dict[str, "Rate"])
    claim: Claim | None = None
    prefetch: Prefetch = field(default_factory=Prefetch)

    def __post_init__(self) -> None:
        at_least_one("max_attempts", self.max_attempts)
        for limits in (self.rate_limits, self.key_rate_limits):
            for queue, rate in limits.items():
                rate_of(rate)
                one_of("a queue with a rate limit", queue, self.queues)
        if isinstance(self.queues, str) or not self.queues:
            raise ConfigurationError(f'queues are names, such as ("default", "emails"); got {self.queues!r}')
        known = [lane for queue in self.queues for lane in lanes(f"{queue}")]
        if len({*known}) < len(known):
            raise ConfigurationError(
                f"no two queues may have a lane in common ('a:high' is one of 'a'); got {self.queues!r}"
            )
        if self.on_failed is not None and not callable(self.on_failed):
            raise ConfigurationError(f"on_failed is called with a job and its error; got {self.on_failed!r:.100}")


def consumer_of(
    broker: Broker[Any],
    options: WorkerOptions,
    store: SupportsBudgets | None,
    archive: Audit | None,
    services: Sequence[Service] = (),
) -> Consumer[Any]:
    """The consumer of these queues: jobs with ``perform`` and with ``handle``, of every class that is known."""
    JOBS.check()
    handling = Handling(Threads(options.concurrency, "penstock-job"), options.max_attempts, options.on_failed)
    processor = Processor(JOBS, ProcessorOptions(threads=options.concurrency))
    own = {name: cls for name in JOBS.names if (cls := JOBS.resolve(name)) is not None and cls.carries_data()}
    consumer: Consumer[Any] = Consumer(
        broker,
        Queues(*(lane for queue in options.queues for lane in lanes(queue))),
        list,
        processor,
        group=options.group,
        concurrency=options.concurrency,
        retry=UNLIMITED,
        timeout=options.timeout,
        ordered="everywhere" if broker.capabilities.keyed else True,
        archive=archive,
        middleware=_by_key(options, store),
        codec=ArgsCodec(),
        claim=options.claim,
        options=Options(
            prefetch=options.prefetch,
            limits=Limits(max_crashes=MAX_CRASHES),
            refused=partial(_refused, own, handling, processor),
            rates=_by_queue(options, store),
            services=services,
        ),
    )
    for name, cls in own.items():
        consumer.handle(handling, cls, types=name, codec=cls.fields())
    return consumer


def _by_queue(options: WorkerOptions, store: SupportsBudgets | None) -> Rates | None:
    if store is None or not options.rate_limits:
        return None
    rates = {queue: Budget(f"{queue}/{options.group}", rate_of(rate)) for queue, rate in options.rate_limits.items()}
    return Rates(store, {lane: budget for queue, budget in rates.items() for lane in lanes(queue)})


def _by_key(options: WorkerOptions, store: SupportsBudgets | None) -> list[ConsumeMiddleware]:
    if store is None:
        return []
    return [
        RateLimit(store, rate_of(rate), key=partial(_group_in, lanes(queue)), name=f"{queue}/{options.group}")
        for queue, rate in options.key_rate_limits.items()
    ]


def _group_in(queues: Sequence[str], envelope: Envelope[Any]) -> str | None:
    return envelope.context.key if envelope.context.stream in queues else None


def _refused(
    own: dict[str, type[Job]],
    handling: Handling,
    processor: Processor,
    delivery: Delivery[Any],
    outcome: DeadLetter,
) -> None:
    cls = own.get(delivery.message.type)
    if cls is None:
        processor.refused(delivery, outcome)
    else:
        handling.refused(delivery, outcome, cls)
