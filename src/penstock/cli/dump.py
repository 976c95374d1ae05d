"""SIGTTIN: what a worker is doing right now, into its log. The threads' stacks come even from a loop that is blocked."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from ..worker import Worker

logger = logging.getLogger("penstock")


@contextmanager
def telling(worker: Worker) -> Generator[None]:
    """Answer SIGTTIN while the block runs; inside a running loop."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTTIN, tell, worker)
    with suppress(ValueError, OSError, AttributeError):  # no stderr that is a file
        faulthandler.register(signal.SIGTTIN, file=sys.stderr, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGTTIN)
        loop.remove_signal_handler(signal.SIGTTIN)


def tell(worker: Worker) -> None:
    """Log each consumer's state and running jobs, and where each coroutine handler waits."""
    for consumer in worker.consumers:
        running = consumer.running
        jobs = [job for each in running for job in each.ledger.contexts.values()]
        healthy = not any(each.trouble for each in running)
        state = "stopped" if not running else "running" if healthy else "without its broker"
        logger.warning("%s is %s, with %d jobs, %s", consumer.name, state, len(jobs), consumer.counters)
        for job in jobs:
            logger.warning("%s runs %s", consumer.name, job.type, extra=job.fields())
    for task in asyncio.all_tasks():
        frames = _frames(task.get_coro())
        if task.get_name().startswith("slot-") and not frames[-1].endswith("in _rest"):
            logger.warning("%s waits at %s", task.get_name(), " < ".join(reversed(frames)))


def _frames(coroutine: object) -> list[str]:
    """Where a suspended coroutine is, outermost first."""
    found: list[str] = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None)
    return found or [""]
