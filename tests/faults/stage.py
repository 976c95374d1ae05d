"""One fault under load: a topology, a fleet of worker processes, a sender, and the times at which things happened."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from penstock import BrokerError, Producer, Send, open_broker
from penstock.broker import FOREVER
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.faults.topologies import STREAM, Topology

GROUP = "default"
WORKERS = 3
BATCH = 25
LEAD = 1500  # jobs that the sender may be ahead of the workers
DELAYED, SPAWNING = 10, 25  # every so many jobs one is sent for later, one sends a job itself


@dataclass(frozen=True, slots=True)
class Sizes:
    """``jobs`` sent; ``lease`` of the workers, and ``deadline`` of each of their calls; ``outage``: seconds that something longer than the lease lasts;
    ``blackhole``: seconds without a network."""

    jobs: int
    lease: float
    deadline: float
    outage: float
    blackhole: float
    patience: float


class Load:
    """Sends jobs in small batches and remembers which of them the server has acknowledged.

    A batch whose fate is unknown is not sent again: its jobs may run or not.
    """

    def __init__(self, url: str, ahead: Callable[[], int]) -> None:
        self._broker = open_broker(url, timeout=2.0)
        self._producer = Producer(self._broker, STREAM, Job, default_type="job")
        self._ahead, self._dice = ahead, random.Random(3)
        self._next, self._target = 1, 0.0
        self.acknowledged: set[int] = set()
        self.uncertain: set[int] = set()
        self._paused = asyncio.Event()
        self._paused.set()
        self._task = asyncio.create_task(self._send())

    def up_to(self, target: float) -> None:
        """Send until so many are acknowledged."""
        self._target = target

    @property
    def done(self) -> bool:
        return len(self.acknowledged) >= self._target

    async def _send(self) -> None:
        while True:
            await self._paused.wait()
            if self.done or self._ahead() > LEAD:
                await asyncio.sleep(0.01)
                continue
            numbers = range(self._next, self._next + BATCH)
            self._next += BATCH
            try:
                await self._producer.send_many([self._item(number) for number in numbers])
                self.acknowledged.update(numbers)
            except BrokerError:
                self.uncertain.update(numbers)
                await asyncio.sleep(0.1)

    def _item(self, number: int) -> Send[Job]:
        job = Job(number, "spawn" if number % SPAWNING == 0 else "sleep", self._dice.uniform(0.0, 0.01))
        return Send(job, delay=self._dice.uniform(0.1, 0.5) if number % DELAYED == 0 else 0.0)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._broker.close()


@dataclass(slots=True)
class Times:
    """Monotonic seconds: of the whole run, and of the fault in it."""

    began: float = 0.0
    struck: float = 0.0
    healed: float = 0.0
    drained: float = 0.0


@dataclass(slots=True)
class Stage:
    """What a fault has in its hands, and what it leaves behind for the verdict.

    ``kept``: what the server still had after it came back, ``destroyed``: what it was told to destroy, if either is
    what the fault is about. ``frozen``: pids of those that could say nothing meanwhile.
    """

    topology: Topology
    sizes: Sizes
    fleet: Fleet
    load: Load | None = None
    times: Times = field(default_factory=Times)
    done: set[int] = field(default_factory=set[int])
    acknowledged_then: set[int] = field(default_factory=set[int])
    kept: set[int] | None = None
    destroyed: set[int] | None = None
    frozen: set[int] = field(default_factory=set[int])
    _seen: int = 0

    @classmethod
    def make(cls, topology: Topology, sizes: Sizes, directory: Path) -> Stage:
        fleet = Fleet(
            topology.workers_url,
            directory,
            stream=STREAM,
            lease=sizes.lease,
            interval=sizes.lease / 4,
            wait=0.5,
            max_attempts=20,
            options={"timeout": sizes.deadline},
        )
        return cls(topology, sizes, fleet)

    async def play(self, fault: Callable[[Stage], Awaitable[None]]) -> None:
        """Send, let the fault strike in the middle of it, send the rest, wait until all is done."""
        self.times.began = time.monotonic()
        await self.fleet.start_ready(WORKERS)
        load = self.load = Load(self.topology.url, self._ahead)
        try:
            load.up_to(FOREVER)
            await self.until(lambda: len(self.executed()) >= self.sizes.jobs * 0.3)
            self.times.struck = time.monotonic()
            await fault(self)
            if not self.times.healed:
                self.ended()
            load.up_to(max(self.sizes.jobs, len(load.acknowledged) + self.sizes.jobs // 2))
            try:
                await self.until(lambda: load.done and not self.missing())
            except AssertionError as error:
                error.add_note(f"acknowledged and never done: {sorted(self.missing())[:50]}")
                error.add_note(f"the server still has: {sorted(self.topology.kept(STREAM))[:50]}")
                raise
            self.times.drained = time.monotonic()
        finally:
            await load.stop()

    def ended(self) -> None:
        """The fault is over, from now on."""
        self.times.healed = time.monotonic()

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.fleet.until(condition, self.sizes.patience)

    def executed(self) -> set[int]:
        """The numbers of the jobs that some worker has come to the end of."""
        lines = self.fleet.lines
        for line in lines[self._seen :]:
            if line.event in {"end", "lost"}:
                self.done.add(line.number)
        self._seen = len(lines)
        return self.done

    def missing(self) -> set[int]:
        """Acknowledged, not done, and not lost by the server itself."""
        assert self.load is not None
        return self.load.acknowledged - self.executed() - self.lost_by_the_server()

    def lost_by_the_server(self) -> set[int]:
        """What it had acknowledged before the fault and did not have after it."""
        if self.destroyed is not None:
            return self.destroyed - self.done
        return set() if self.kept is None else self.acknowledged_then - self.kept - self.done

    def remember_acknowledged(self) -> None:
        assert self.load is not None
        self.acknowledged_then = set(self.load.acknowledged)

    def _ahead(self) -> int:
        return len(self.missing())
