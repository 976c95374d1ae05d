"""The supervisor: keeps a number of worker processes at work, and never works itself.

1. Each slot has one child. One that ends unasked is started again, after a pause that grows with each failure in a row.
2. A child is replaced (a reload, too many jobs, too much memory) by starting its successor first, waiting until that is
   ready, and draining the old one then: one at a time over all slots, and never with fewer at work than wanted. A
   successor that does not get ready leaves everything as it was.
3. If no child can start at all the supervisor ends with the child's exit code and reason, instead of trying for ever.
4. SIGTERM stops every child within its drain; what does not stop is killed. If the supervisor dies, the children see it.

The application is never imported here: a reload takes what is on disk by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from ..contrib.fleet_metrics import Family
from ..signals import heeding
from . import codes
from .notify import notify, reloading
from .process import Process
from .restarts import Terms, due, ending, exit_code, failures_after, hopeless, jobs_of_a_child, pause_after
from .scoreboard import Scoreboard

logger = logging.getLogger("penstock")

HURRY = 10.0  # seconds after a second signal until what is left is killed
PAUSE = 30.0  # seconds before a child whose replacement failed is to be replaced again


class Slot:
    """The place of one child, and who comes after it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.successor: Process | None = None
        self.failures = 0
        self.recycling = False
        self.max_jobs: int | None = None
        self.wake = asyncio.Event()

    def __str__(self) -> str:
        process = self.process
        state = f"process {process.pid}, {'ready' if process.ready else 'not ready'}" if process else "no process"
        return f"child {self.number}: {state}, {self.failures} failures in a row"

    def install(self, process: Process, terms: Terms, dice: random.Random) -> None:
        """Make it the child of this slot."""
        self.process = process
        self.max_jobs = jobs_of_a_child(terms.max_jobs, dice)

    @property
    def empty(self) -> bool:
        """Whether its child has ended, and none has come after it."""
        return self.process is None

    @property
    def ready(self) -> bool:
        """Whether somebody works here."""
        return self.process is not None and self.process.ready


class Tasks(set[asyncio.Task[None]]):
    """Tasks that are under way."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start one more."""
        task = asyncio.create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)


class Supervisor:
    """See the module. ``run`` serves until a signal; ``command`` is what a child runs, in ``directory``."""

    def __init__(self, terms: Terms, command: Sequence[str], directory: str, dice: random.Random | None = None) -> None:
        self._terms, self._command, self._directory = terms, command, directory
        self._dice = dice or random.SystemRandom()
        self._slots = [Slot(number) for number in range(1, terms.processes + 1)]
        self._alive: dict[int, Process] = {}
        self._scores = Scoreboard()
        self._generation = self._failed_starts = 0
        self._ever_ready = self._announced = self._quiet = self._killed = self._rolling = False
        self._one_at_a_time = asyncio.Lock()
        self._tasks = Tasks()  # end when it stops
        self._minding = Tasks()  # end with their child
        self._wanted_down = asyncio.Event()
        self._code, self.reason = codes.OK, ""

    @property
    def ready(self) -> bool:
        """Whether every slot has a child that is."""
        return not (self._quiet or self._wanted_down.is_set()) and all(slot.ready for slot in self._slots)

    def families(self) -> list[Family]:
        """The metrics of all children as of one worker, and those of the supervisor. From any thread."""
        ready = [slot.ready for slot in self._slots]
        return self._scores.families(wanted=len(ready), ready=sum(ready), all_ready=self.ready)

    async def run(self) -> int:
        """Serve until a signal; the exit code. Then, or if it gave up, ``reason`` says why it is not 0."""
        with heeding(self._actions()):
            logger.info("supervisor started: %d processes", len(self._slots))
            for slot in self._slots:
                self._fill(slot)
            await self._wanted_down.wait()
            notify("STOPPING=1")
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(self._retire(process) for process in list(self._alive.values())))
            await asyncio.gather(*self._minding)
        if self._killed and self._code == codes.OK:
            self._code, self.reason = codes.FAILED, "a child did not stop in time and was killed"
        logger.info("supervisor stopped")
        return self._code

    def _launch(self, slot: Slot) -> Process | None:
        try:
            process = Process(self._command, self._directory, self._generation)
        except OSError as error:
            logger.error("child %d: no process can be started: %s", slot.number, error)  # noqa: TRY400 one line
            return None
        self._alive[process.number] = process
        self._minding.spawn(self._mind(slot, process))
        logger.info("child %d: process %d started", slot.number, process.pid)
        return process

    def _fill(self, slot: Slot) -> None:
        """Start a child in an empty slot."""
        process = self._launch(slot)
        if process is not None:
            slot.install(process, self._terms, self._dice)
            return
        slot.failures = failures_after(slot.failures, None)
        if self._ever_ready:
            self._tasks.spawn(self._refill(slot, "crash"))
        else:
            self._give_up(codes.FAILED, "no process can be started")

    async def _mind(self, slot: Slot, process: Process) -> None:
        """Stay with a child from its start to its end."""
        code = await process.listen(partial(self._heard, slot))
        del self._alive[process.number]
        self._scores.ended(process)
        self._scores.appoint(self._slots)
        if process.retired or self._wanted_down.is_set():
            logger.info("child %d: process %d %s", slot.number, process.pid, ending(code))
        else:
            self._lost(slot, process, code)

    def _heard(self, slot: Slot, process: Process) -> None:
        self._scores.heard(process)
        report = process.report
        if report is None or self._wanted_down.is_set():
            return
        if self._quiet and report.ready:
            process.signal(signal.SIGUSR1)
        if report.ready:
            self._ever_ready, self._failed_starts = True, 0
        self._scores.appoint(self._slots)
        if self.ready and not self._announced:
            self._announced = True
            logger.info("all %d processes are ready", len(self._slots))
            notify("READY=1")
        reason = due(report, slot.max_jobs, self._terms.max_memory)
        if reason and process is slot.process and not slot.recycling and not self._quiet:
            slot.recycling = True
            self._tasks.spawn(self._recycle(slot, process, reason))

    def _lost(self, slot: Slot, process: Process, code: int) -> None:
        """A child has ended, unasked."""
        worked = None if process.ready_at is None else time.monotonic() - process.ready_at
        what = f"{ending(code)}{': ' if process.reason else ''}{process.reason}"
        logger.error("child %d: process %d %s", slot.number, process.pid, what)
        if worked is None:
            self._failed_starts += 1
            any_ready = any(slot.ready for slot in self._slots)
            if hopeless(code, self._failed_starts, ever_ready=self._ever_ready, any_ready=any_ready):
                self._give_up(exit_code(code), process.reason or f"process {process.pid} {what} before it was ready")
                return
        slot.failures = failures_after(slot.failures, worked)
        if slot.process is process:  # else it was to become the successor: who waits for it knows
            slot.process = None
            if slot.successor is None:
                self._tasks.spawn(self._refill(slot, "crash" if code else "exit"))

    async def _refill(self, slot: Slot, reason: str) -> None:
        """Start again when it is time, or sooner if a reload may have mended the cause."""
        pause = pause_after(slot.failures, self._dice)
        if pause:
            logger.info("child %d: starting again in %.1f s", slot.number, pause)
        slot.wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(slot.wake.wait(), pause)
        while self._quiet:
            slot.wake.clear()
            await slot.wake.wait()
        self._scores.restarted(reason)
        self._fill(slot)

    async def _replace(self, slot: Slot, old: Process, reason: str) -> bool:
        """Put a fresh child in the place of ``old``, if it is still there. False if it did not get ready."""
        async with self._one_at_a_time:
            if slot.process is not old:
                return True
            logger.info("child %d: replacing process %d (%s)", slot.number, old.pid, reason)
            fresh = slot.successor = self._launch(slot)
            ready = False
            if fresh is not None:
                with contextlib.suppress(TimeoutError):
                    ready = await asyncio.wait_for(asyncio.shield(fresh.first_ready), self._terms.patience)
            slot.successor = None
            if fresh is None or not ready:
                logger.error("child %d: the new process did not get ready, the old one stays", slot.number)
                if fresh is not None and not fresh.gone.done():
                    self._tasks.spawn(self._retire(fresh))
                if slot.empty:
                    self._tasks.spawn(self._refill(slot, "crash"))
                return False
            slot.install(fresh, self._terms, self._dice)
            self._scores.restarted(reason)
            await self._retire(old)
            return True

    async def _recycle(self, slot: Slot, old: Process, reason: str) -> None:
        try:
            if not await self._replace(slot, old, reason):
                await asyncio.sleep(PAUSE)
        finally:
            slot.recycling = False

    async def _roll(self) -> None:
        """Replace every child that is older than the last reload."""
        reloading()
        while found := [(s, s.process) for s in self._slots if s.process and s.process.generation < self._generation]:
            wanted = self._generation  # if that has risen since, what failed may have been mended
            if not await self._replace(*found[0], "reload") and self._generation == wanted:
                logger.error("reload given up: %d processes of before stay", len(found))
                notify("READY=1", f"STATUS=reload given up: {len(found)} processes of before stay")
                break
        else:
            logger.info("reload done")
            notify("READY=1", "STATUS=")
        self._rolling = False

    async def _retire(self, process: Process) -> None:
        """Drain a child and see it off; kill it if it takes too long."""
        if not process.retired:
            process.retired = True
            process.signal(signal.SIGTERM)
        await asyncio.wait((process.gone,), timeout=process.drain)
        if not process.gone.done():
            logger.error("process %d did not stop within %.0f s and is killed", process.pid, process.drain)
            self._killed |= self._wanted_down.is_set()
            process.kill()
            await asyncio.wait((process.gone,))

    def _actions(self) -> dict[signal.Signals, Callable[[], object]]:
        return {
            signal.SIGCHLD: self._look,
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
            signal.SIGTSTP: self._fall_quiet,
            signal.SIGUSR1: self._fall_quiet,
            signal.SIGTTIN: self._tell,
        }

    def _look(self) -> None:
        for process in self._alive.values():
            process.look()

    def _stop(self) -> None:
        """The first time: drain all that do not drain yet. From the second on: hurry."""
        first = not self._wanted_down.is_set()
        self._wanted_down.set()
        logger.info("stopping" if first else "second signal: releasing what runs")
        for process in self._alive.values():
            if not (first and process.retired):
                process.retired = True
                process.signal(signal.SIGTERM)
        if not first:
            asyncio.get_running_loop().call_later(HURRY, self._kill)

    def _kill(self) -> None:
        for process in self._alive.values():
            if not process.gone.done():
                logger.error("process %d did not hurry and is killed", process.pid)
                self._killed = True
                process.kill()

    def _reload(self) -> None:
        if self._wanted_down.is_set():
            return
        self._generation += 1
        self._quiet = False
        for slot in self._slots:
            slot.failures = 0
            slot.wake.set()
        logger.info("reload: replacing %d processes, one after the other", len(self._slots))
        if not self._rolling:
            self._rolling = True
            self._tasks.spawn(self._roll())

    def _fall_quiet(self) -> None:
        logger.info("quiet: fetching no more")
        self._quiet = True
        for process in self._alive.values():
            process.signal(signal.SIGUSR1)

    def _tell(self) -> None:
        for slot in self._slots:
            logger.warning("%s", slot)
        for process in self._alive.values():
            process.signal(signal.SIGTTIN)

    def _give_up(self, code: int, reason: str) -> None:
        if not self._wanted_down.is_set():
            self._code, self.reason = code, reason
            logger.critical("no process can work; giving up: %s", reason)
            self._stop()
