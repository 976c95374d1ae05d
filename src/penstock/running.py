"""A consumer at work: the parts and how they hang together.

The intake fetches into the ledger, the slots run what is in it through the executor, the settler writes the outcomes,
the services recover what others left, the lease keeper renews what is held.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .audit import Audit
from .batch_slots import BatchSlots
from .batches import BatchExecutor
from .broker import Broker, Settlement, Subscription, SupportsReclaim, SupportsSchedule, SupportsTrim
from .clock import Clock, wait_until
from .deadlines import Deadlines
from .effects import Effects, SupportsTransaction
from .executor import Executor
from .intake import Intake
from .ledger import SUSPECT_COUNT, Ledger, suspect_count
from .message import Delivery
from .ordering import OrderedLedger, OrderedSlots
from .outage import OutageLog, Outages
from .outcome import Release
from .plan import Plan
from .rates import Gate
from .services import Service
from .services.leases import LeaseKeeper
from .services.pruner import Pruner
from .services.reclaimer import Reclaimer
from .services.scheduler import Scheduler
from .settling import Settler
from .slots import Slots
from .telemetry import Telemetry
from .threads import Threads
from .turns import Turns, each_queue

logger = logging.getLogger("penstock")

TWIN_PAUSE = 0.05  # seconds until a message comes again whose id another queue's message has, which is held here
IDLE_LOOKS = 2.0  # seconds between two looks of the scheduler at one of several queues, at most
SETTLE_GRACE = 5.0  # seconds that a stopping consumer waits for its last outcomes to be written


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker lends its consumers."""

    clock: Clock
    dice: random.Random
    telemetry: Telemetry
    _outages: dict[int, Outages] = field(default_factory=dict[int, Outages])

    def outages(self, on: Broker[Any] | Audit) -> Outages:
        """What all roles on one broker, or one archive, know of it."""
        return self._outages.setdefault(id(on), Outages())


class Running:
    """The machinery of a started consumer."""

    def __init__(self, plan: Plan, around: Surroundings) -> None:
        self._plan, self._around = plan, around
        self._threads: Threads | None = None
        if plan.registry.threaded:
            most = plan.options.threads or plan.concurrency
            self._threads = Threads(most, f"penstock-{plan.name}")
        self.ledger, self.slots, self._deadlines = self._make_slots()
        self.ledger.unpark = self.accept
        fetch, rates = plan.broker.fetch, plan.options.rates
        if rates is not None:
            fetch = Gate(plan.broker, rates, around.clock).fetch
        alike = plan.queues is None or rates is None or rates.alike(plan.queues.names)
        alone = plan.queues is None or (plan.broker.capabilities.several and alike)
        self._turns = None if alone else Turns(fetch)
        self.intake = Intake(
            fetch if self._turns is None else self._turns.fetch,
            plan.broker.capabilities.max_batch,
            self._look,
            self.ledger,
            self.accept,
            slots=plan.at_once,
            prefetch=plan.options.prefetch,
            clock=around.clock,
            outage=self._outage("intake"),
        )
        parts = (plan.broker, self.ledger, around.clock, around.telemetry, self._outage("settler"))
        self._settler = Settler(*parts, plan.archive)
        self.ledger.on_lost = self._settler.lost
        self._intake_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.hurry = asyncio.Event()
        self._reasons: set[str] = set()
        self._left_out: frozenset[str] = frozenset()
        self._holding = asyncio.Lock()
        self._strays: set[asyncio.Future[Any]] = set()
        self._quieted = False

    def _make_slots(self) -> tuple[Ledger, Slots, Deadlines]:
        plan, around = self._plan, self._around
        limit = plan.policy.max_attempts
        # What may have killed a worker does not get into one batch with others
        ledger = OrderedLedger(limit, around.clock) if plan.ordered else Ledger(limit if plan.batch is None else 1)
        kind = Executor if plan.batch is None else BatchExecutor
        executor = kind(
            registry=plan.registry,
            policy=plan.policy,
            identity=plan.broker.identity,
            middleware=plan.middleware,
            limits=plan.options.limits,
            clock=around.clock,
            threads=self._threads,
            timeout=plan.timeout,
            expired=plan.options.expired,
            refused=plan.options.refused,
            counters=ledger.counters,
        )
        if plan.batch is None and isinstance(plan.broker, SupportsTransaction):
            executor.effects = Effects(plan.broker, ledger.settling)
        parts = (plan.concurrency, around.clock, around.telemetry)
        if plan.batch is not None and isinstance(executor, BatchExecutor):
            return ledger, BatchSlots(ledger, executor, *parts, plan.batch), executor.deadlines
        if isinstance(ledger, OrderedLedger):
            return ledger, OrderedSlots(ledger, executor, *parts), executor.deadlines
        return ledger, Slots(ledger, executor, *parts), executor.deadlines

    def start(self, reasons: Iterable[str] = ()) -> None:
        """Start every part; but with reasons to be paused, no intake."""
        self.slots.start()
        self._tasks = [self._task(self._settler.run(), "settler")]
        self.intake.answered_at = self._around.clock.monotonic()  # the broker has just let this consumer join
        self._reasons.update(reasons)
        self.intake.quiet = self.paused
        if not self.paused:
            self._intake_task = self._task(self.intake.run(), "intake")

    def _look(self) -> Subscription:
        """What the next fetch is to ask for."""
        plan = self._plan
        if plan.queues is None:
            return plan.subscription
        order = plan.queues.order(self._around.dice, self._left_out)
        return msgspec.structs.replace(plan.subscription, queues=order)

    def leave_out(self, queues: frozenset[str]) -> None:
        """Take nothing from these of several queues, for now; what has not begun of them is given back."""
        news, self._left_out = queues - self._left_out, queues
        if news:
            self.ledger.release_unstarted([d for d in self.ledger.waiting if d.source in news])

    @property
    def source(self) -> str:
        """The stream that it reads."""
        return self._plan.subscription.source

    @property
    def paused(self) -> bool:
        """Whether there is a reason to fetch nothing for now."""
        return bool(self._reasons)

    async def hold(self, reason: str, *, on: bool) -> None:
        """Pause for a reason, or drop it. What has not begun is given back, what runs goes on."""
        (self._reasons.add if on else self._reasons.discard)(reason)
        async with self._holding:  # the last wish counts, whoever came in between
            if self._quieted or self.intake.quiet == self.paused:
                return
            logger.info("%s %s", self._plan.name, "paused" if self.paused else "goes on")
            if self.paused:
                await self._halt()
                self.ledger.give_back()
            else:
                self.intake.quiet = self.ledger.closed = False
                self._intake_task = self._task(self.intake.run(), "intake")

    def accept(self, deliveries: Sequence[Delivery[Any]]) -> None:
        """Take deliveries in and wake a slot."""
        self.ledger.add(deliveries)
        if self.ledger.twins:
            self._later(self.ledger.twins)
            self.ledger.twins = []
        if self.intake.quiet:  # fetched while the worker went quiet: for somebody else to run
            self.ledger.release_unstarted(deliveries)
        elif self._left_out:  # asked for before the queue was paused
            self.ledger.release_unstarted([d for d in deliveries if d.source in self._left_out])
        self.slots.wake()

    def _later(self, twins: list[Delivery[Any]]) -> None:
        """Give them back for a moment. If that fails they come back when their leases lapse."""
        back = [Settlement(delivery=each, outcome=Release(TWIN_PAUSE)) for each in twins]
        task = asyncio.ensure_future(self._plan.broker.settle(back))
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)
        task.add_done_callback(_given_back)

    def services(self, *, scheduler: bool = True) -> list[Service]:
        """The roles that this consumer's broker needs, and that belong to its subscription."""
        found: list[Service] = [*self._plan.options.services]
        parts = each_queue(self._plan.broker, self._plan.subscription)
        for subscription in parts:
            found += self._services(subscription, len(parts), scheduler=scheduler)
        return found

    def _services(self, subscription: Subscription, parts: int, *, scheduler: bool) -> list[Service]:
        """The roles of one of so many queues: the more there are, the rarer each is looked at."""
        broker, claim = self._plan.broker, self._plan.claim
        telemetry, limit = self._around.telemetry, self._plan.policy.max_attempts
        found: list[Service] = []
        if scheduler and isinstance(broker, SupportsSchedule):
            tick = min(Scheduler.tick * parts, max(IDLE_LOOKS, Scheduler.tick))
            found.append(Scheduler(broker, subscription.source, telemetry, delayed=subscription.delayed, tick=tick))
        if isinstance(broker, SupportsReclaim):
            # With a limit of 1 nothing of it will run, and nothing can be taken down
            found.append(
                Reclaimer(
                    broker,
                    subscription,
                    self.ledger,
                    self.accept,
                    self.intake.room,
                    telemetry,
                    interval=min(claim.interval * parts, max(claim.min_idle / 3, claim.interval)),
                    most=claim.max_per_tick,
                    suspect_count=suspect_count(limit) if limit > 1 else SUSPECT_COUNT,
                )
            )
        if isinstance(broker, SupportsTrim):
            found.append(Pruner(broker, subscription))
        return found

    def keeper(self) -> LeaseKeeper:
        """What renews this consumer's leases; ``lost`` may be called from another thread."""
        loop, ledger = asyncio.get_running_loop(), self.ledger

        def lost(delivery: Delivery[Any]) -> None:
            ident = delivery.message.id
            context = ledger.contexts.get(ident)
            if context is not None and ledger.held.get(ident) is delivery and ident not in ledger.settling:
                context.lease_lost = True
            loop.call_soon_threadsafe(self._settler.lost_by_keeper, delivery)

        def held() -> list[Delivery[Any]]:
            return list(ledger.held.values())

        subscription = self._plan.subscription
        return LeaseKeeper(self._plan.broker, subscription.source, subscription.lease, held, lost)

    async def quiet(self) -> None:
        """Stop the intake, wherever it is, for good."""
        self._quieted = True
        await self._halt()

    async def _halt(self) -> None:
        """Stop the intake; a cancelled fetch loses nothing."""
        self.intake.quiet = True
        if self._intake_task is not None:
            self._intake_task.cancel()
            await asyncio.gather(self._intake_task, return_exceptions=True)
            self._intake_task = None
            self.intake.halted()
        if self._turns is not None and (taken := await self._turns.stop()):
            self.accept(taken)

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109 see Consumer.stop
        """See ``Consumer.stop``."""
        await self.quiet()
        for context in list(self.ledger.contexts.values()):
            context.stopping = True
        self.ledger.give_back()
        clean = await self._drained(timeout)
        await self.slots.stop()
        self._deadlines.close()
        await wait_until(self.ledger.idle, self._around.clock, SETTLE_GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._strays, return_exceptions=True)
        if self._plan.archive is not None and not await self._plan.archive.flush(SETTLE_GRACE):
            logger.warning("%s: rows wait for the archive; close it, or they go with this process", self._plan.name)
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        return clean

    async def _drained(self, timeout: float) -> bool:  # noqa: ASYNC109 see Consumer.stop
        """Whether everything came to its end in time and in peace."""
        drained = asyncio.create_task(wait_until(self.ledger.idle, self._around.clock, timeout))
        hurried = asyncio.create_task(self.hurry.wait())
        await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        hurried.cancel()
        await asyncio.gather(drained, hurried, return_exceptions=True)
        return self.ledger.idle.is_set()

    @property
    def trouble(self) -> str:
        """Why it does no work; nothing if all parts are alive, and the last fetch and settlement were answered."""
        if not self.slots.alive or any(task.done() for task in self._tasks):
            return "a part of it has ended by itself"
        return self.intake.trouble or ("outcomes cannot be written" if self._settler.down else "")

    def _outage(self, role: str) -> OutageLog:
        around = self._around
        outages = around.outages(self._plan.broker)
        return OutageLog(role, self.source, around.clock, around.dice, around.telemetry, outages=outages)

    def _task(self, work: Coroutine[Any, Any, None], role: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"{role} {self._plan.name}")


def _given_back(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a message was not given back: %s", error)
