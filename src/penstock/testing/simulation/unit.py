"""A worker of the simulated world: the whole engine on one machine, with handlers that follow the script."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from ...clock import Clock
from ...consumer import Consumer
from ...context import Context
from ...errors import ConnectionFailed
from ...intake import Prefetch
from ...outcome import DeadLetter, Outcome, Release, Retry
from ...plan import Claim, Options
from ...retry import ExponentialJitter, RetryPolicy
from ...telemetry import Telemetry
from ...worker import Worker
from .history import History
from .machine import Machine
from .network import SimulatedBroker
from .referee import Referee, Run
from .script import LEASE, Job, Script, Step

STREAM = "jobs"


class ToldToFailError(Exception):
    """What a handler of the script raises."""


class World(Protocol):
    """What a unit knows of the world around it."""

    script: Script
    history: History
    referee: Referee
    jobs: dict[int, Job]

    def broker(self, machine: Machine) -> SimulatedBroker:
        """A machine's end of the line."""
        ...


class Unit:
    """``down`` is set when it has crashed or stopped."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.machine, self.down = machine, asyncio.Event()
        self._world = world
        broker = world.broker(machine)
        script = world.script
        consumers = [self._consumer(broker, group) for group in script.groups]
        clock: Clock = machine.clock
        self._worker = Worker(
            *consumers, drain=script.drain, lease_thread=False, clock=clock, dice=machine.dice, telemetry=Telemetry()
        )
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    def _consumer(self, broker: SimulatedBroker, group: str) -> Consumer[Any]:
        script, dice = self._world.script, self.machine.dice
        return Consumer(
            broker,
            STREAM,
            dict,
            self._handle,
            group=group,
            ordered=script.ordered,
            concurrency=script.concurrency,
            retry=RetryPolicy(
                max_attempts=script.max_attempts, backoff=ExponentialJitter(base=0.2, cap=2.0, random=dice)
            ),
            claim=Claim(min_idle=LEASE, interval=0.5, max_per_tick=dice.choice((2, 128))),
            options=Options(prefetch=Prefetch(most=dice.choice((2, 1000)), wait=1.0)),
        )

    def start(self) -> None:
        """Begin."""
        self._world.history.note(self.machine.name, "starts")
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        try:
            await self._worker.start()
        except ConnectionFailed:  # a worker that cannot reach its broker says so and exits
            self._world.history.note(self.machine.name, "cannot start")
            self.down.set()

    def crash(self) -> None:
        """``kill -9``."""
        self.machine.die()
        self._world.history.note(self.machine.name, "crashes")
        self.down.set()

    def stop(self) -> None:
        """SIGTERM; the second time, hurry."""
        self._world.history.note(self.machine.name, "must stop")
        self._worker.shut_down()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await self._worker.stop()
        await self.machine.gate()
        self._world.history.note(self.machine.name, "stopped")
        self._world.referee.left(self.machine)
        self.down.set()

    async def _handle(self, job: dict[str, Any], context: Context) -> Outcome | None:
        machine, world = self.machine, self._world
        run = world.referee.started(machine, context)
        steps = world.jobs[job["number"]].steps
        nth = len(world.referee.copies[context.id, context.group].runs) - 1
        step = steps[min(nth, len(steps) - 1)]
        try:
            if step.seconds:
                await machine.clock.sleep(step.seconds)
        except asyncio.CancelledError:
            if not machine.over:
                world.referee.ended(run, "interrupted")
            raise
        return await self._act(step, run)

    async def _act(self, step: Step, run: Run) -> Outcome | None:
        if step.action == "kill":
            self.crash()
            await self.machine.gate()
        ending = "fail" if step.action == "panic" else step.action
        self._world.referee.ended(run, ending)
        match step.action:
            case "fail":
                raise ToldToFailError
            case "panic":
                raise SystemExit
            case "retry":
                return Retry(0.1)
            case "dead":
                return DeadLetter("told to")
            case "release":
                return Release(0.1)
            case _:
                return None
