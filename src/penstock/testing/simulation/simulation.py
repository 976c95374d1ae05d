"""Deterministic simulation: a fleet of workers, the whole engine each, in a world made from a seed.

Several machines work on one memory system behind a network that is slow, loses requests and answers, and cuts machines
off; machines crash, freeze, stop and come back; handlers succeed, fail, dawdle, hand back, and kill their worker. Time
is virtual and all chance comes from the seed: the same seed is the same history, to the last event. A referee holds
everything that happens against the delivery contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from ...broker import Subscription
from ...brokers.memory_system import MemorySystem
from ...errors import ConnectionFailed
from ...producer import Idempotency, Producer
from ...telemetry import Telemetry
from ..virtual import VirtualClock, run_virtual
from .history import History
from .machine import Machine
from .network import Network, SimulatedBroker
from .referee import Referee
from .script import LEASE, Job, Mishap, Script, drawn
from .unit import STREAM, Unit

PATIENCE = 300.0  # virtual seconds, after all trouble is over, in which everything must come to its end
GRACE = 60.0  # virtual seconds in which all workers must have stopped


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one seed. ``fouls``: what happened and must not, in order; empty if all is well."""

    seed: int
    script: Script
    fouls: tuple[str, ...]
    history: History
    accused: str

    def __str__(self) -> str:
        if not self.fouls:
            return f"seed {self.seed}: {len(self.history.events)} events, all well"
        trace = self.history.excerpt(self.accused)
        return f"seed {self.seed}: {self.fouls[0]}\n{trace}\n(Simulation({self.seed}).run() shows it again)"


class Simulation:
    """One world. ``script`` and ``broker_class`` replace what the seed would choose."""

    def __init__(
        self, seed: int, *, script: Script | None = None, broker_class: type[SimulatedBroker] = SimulatedBroker
    ) -> None:
        self.seed = seed
        self._dice = random.Random(seed)  # noqa: S311 the seed is the point
        self.script = script or drawn(self._dice)
        self.jobs: dict[int, Job] = {job.number: job for job in self.script.jobs}
        self.history = History()
        self.referee = Referee(
            self.history, self.script.groups, LEASE, self.script.max_attempts, ordered=self.script.ordered
        )
        self._broker_class = broker_class
        self._machines: list[Machine] = []
        self._units: list[Unit] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = self._over = False

    def run(self) -> Report:
        """Live through it. The engine's log is silent meanwhile; what it did not expect is a foul."""
        with _overheard(self.referee):
            run_virtual(self._live())
        return Report(self.seed, self.script, tuple(self.referee.verdicts), self.history, self.referee.accused)

    def broker(self, machine: Machine) -> SimulatedBroker:
        """A machine's end of the line."""
        return self._broker_class(self._system, machine, self._network, self.referee)

    # ------------------------------------------------------------------------------------------------- from beginning

    async def _live(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        self._system = MemorySystem(VirtualClock())
        self._network = Network(self._dice, latency=self.script.latency, faults=self.script.faults)
        self._client = self._machine("client")
        for group in self.script.groups:
            await self.broker(self._client).inner.fetch(Subscription(source=STREAM, group=group), 0, 0.0)
        posts = [self._spawn(self._post(number)) for number in range(self.script.machines)]
        sending = self._spawn(self._send_all())
        chaos = self._spawn(self._chaos())
        await asyncio.wait((chaos,))
        self._network.faults = 0.0
        await self._until_finished(sending)
        self._closing = True
        await self._stop_all(posts)
        self._look_around()
        await self._end()

    async def _until_finished(self, sending: asyncio.Task[None]) -> None:
        for _ in range(int(PATIENCE / 0.25)):
            if self.referee.verdicts or (sending.done() and not self.referee.unfinished):
                break
            await asyncio.sleep(0.25)
        else:
            self.referee.lost(self.referee.unfinished)
        for task in [task for task in self._tasks if task.done() and not task.cancelled()]:
            task.result()  # a simulation that fails itself must say so

    async def _stop_all(self, posts: list[asyncio.Task[None]]) -> None:
        for unit in self._units:
            if not unit.down.is_set():
                unit.stop()
        _, stuck = await asyncio.wait(posts, timeout=GRACE)
        if stuck and not self.referee.verdicts:
            self.referee.call("", f"{len(stuck)} workers did not stop within {GRACE} s")

    def _look_around(self) -> None:
        """The system itself must be empty."""
        if self.referee.verdicts:
            return
        stats = self._system.stats(STREAM)
        dead = sum(copy.state == "dead" for copy in self.referee.copies.values())
        if stats.size or stats.delayed or stats.dead != dead:
            self.referee.call("", f"everything has come to its end, {dead} of it dead, but the system has {stats}")

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self._over:  # when the world ends, whatever is cancelled may complain
            self.referee.call("", f"nobody handled this: {error!r}")

    async def _end(self) -> None:
        self._over = True
        for machine in self._machines:
            machine.end()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # --------------------------------------------------------------------------------------------------------- actors

    async def _post(self, number: int) -> None:
        """One post of the fleet is always manned: who falls is replaced."""
        generation = 0
        while not self._closing:
            unit = Unit(self, self._machine(f"w{number}.{generation}"))
            self._units.append(unit)
            unit.start()
            await unit.down.wait()
            self._units.remove(unit)
            generation += 1
            await asyncio.sleep(self._dice.uniform(0.0, 1.5))

    async def _send_all(self) -> None:
        machine = self._client
        producer: Producer[Any] = Producer(
            self.broker(machine),
            STREAM,
            dict,
            idempotency=Idempotency(ttl=86_400.0),
            clock=machine.clock,
            telemetry=Telemetry(),
        )
        await asyncio.gather(*(self._send(producer, job) for job in self.script.jobs))

    async def _send(self, producer: Producer[Any], job: Job) -> None:
        """Send it, again and again until the system has it for certain."""
        number, clock = job.number, self._client.clock
        await clock.sleep(job.at)
        while True:
            try:
                await producer.send(
                    {"number": number},
                    type=f"job-{number}",  # a key is known for each type
                    key=job.key or f"job-{number}",
                    delay=job.delay,
                    headers={"number": number},
                )
            except ConnectionFailed:
                await clock.sleep(0.1)
            else:
                self.history.note("client", "has sent", str(number))
                return

    async def _chaos(self) -> None:
        dice, script = self._dice, self.script
        end = asyncio.get_running_loop().time() + script.chaos
        while (left := end - asyncio.get_running_loop().time()) > 0 and not self.referee.verdicts:
            pause = dice.expovariate(1.0 / script.pace) if script.mishaps else left
            await asyncio.sleep(min(left, pause))
            well = [unit for unit in self._units if not unit.machine.impaired]
            if pause < left and well:
                self._strike(dice.choice(script.mishaps), dice.choice(well))

    def _strike(self, mishap: Mishap, unit: Unit) -> None:
        machine, seconds = unit.machine, self._dice.uniform(0.1, 2.5 * LEASE)
        trouble: Coroutine[Any, Any, None] | None = None
        match mishap:
            case "crash":
                unit.crash()
            case "stop" | "hurry":
                unit.stop()
                if mishap == "hurry":
                    asyncio.get_running_loop().call_later(self._dice.random(), unit.stop)
            case "freeze":
                trouble = self._frozen(machine, seconds)
            case "partition":
                trouble = self._cut_off(machine, seconds)
            case "cut off client":
                trouble = self._cut_off(self._client, seconds)
            case "pause":
                trouble = self._standstill(seconds / 2)
        if trouble is not None:
            self._tasks.add(asyncio.create_task(trouble))

    async def _frozen(self, machine: Machine, seconds: float) -> None:
        self.history.note(machine.name, "freezes")
        machine.freeze()
        await asyncio.sleep(seconds)
        self.history.note(machine.name, "thaws")
        machine.thaw()

    async def _cut_off(self, machine: Machine, seconds: float) -> None:
        self.history.note(machine.name, "is cut off")
        machine.troubled()
        machine.partitioned = True
        await asyncio.sleep(seconds)
        self.history.note(machine.name, "is back")
        machine.troubled()
        machine.partitioned = False

    async def _standstill(self, seconds: float) -> None:
        self.history.note("system", "pauses")
        for machine in self._machines:
            machine.troubled()
        self._network.pause()
        await asyncio.sleep(seconds)
        self._network.go_on()
        for machine in self._machines:
            machine.troubled()
        self.history.note("system", "goes on")

    def _machine(self, name: str) -> Machine:
        self._machines.append(Machine(name, random.Random(f"{self.seed}/{name}")))  # noqa: S311 the seed is the point
        return self._machines[-1]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task


class _Listener(logging.Handler):
    """Hears what the engine calls unexpected: it logs such things with their traceback."""

    def __init__(self, referee: Referee) -> None:
        super().__init__(logging.ERROR)
        self._referee = referee

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._referee.call("", f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextlib.contextmanager
def _overheard(referee: Referee) -> Generator[None]:
    logger = logging.getLogger("penstock")
    before = logger.level, logger.handlers, logger.propagate, logger.disabled
    logger.setLevel(logging.ERROR)
    logger.handlers, logger.propagate, logger.disabled = [_Listener(referee)], False, False
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.handlers, logger.propagate, logger.disabled = before[1:]
