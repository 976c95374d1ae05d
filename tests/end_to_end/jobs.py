"""The worker program of the crash tests: real consumers in a real process, told by its argument what to be.

Each execution leaves a line when it starts and one when it ends in the record, a file that all workers append to, one
``write`` a line, so that a line is there whole even when its writer is killed right after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import Any

import msgspec

from penstock import (
    Claim,
    Constant,
    Consumer,
    Context,
    DeadLetter,
    Options,
    Prefetch,
    Producer,
    RetryPolicy,
    Worker,
    open_broker,
)
from penstock.testing.crash import crashing, reached


class Job(msgspec.Struct):
    """``action``: what the handler does besides leaving its lines; ``seconds``: for how long. One that is to ``spawn``
    or to ``pay`` sends another job, with its own number negated.
    """

    number: int
    action: str = "sleep"
    seconds: float = 0.0


class Args(Job, array_like=True):
    """The same as the arguments of a Sidekiq job, whose class is ``HardJob``."""


class Settings(msgspec.Struct, kw_only=True):
    """What one worker of the fleet is."""

    url: str
    record: str
    stream: str = "jobs"
    concurrency: int = 10
    lease: float = 2.0
    drain: float = 10.0
    max_attempts: int = 5
    backoff: float = 0.1
    interval: float = 0.5
    wait: float = 2.0
    uvloop: bool = False
    everywhere: bool = False  # messages of one key in order, across all workers
    options: dict[str, Any] = {}


class Record:
    """The writing end of the record."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def note(self, number: int, event: str, attempt: int = 0, ident: str = "-") -> None:
        os.write(self._file, f"{number} {event} {os.getpid()} {attempt} {time.monotonic():.3f} {ident}\n".encode())


class Handlers:
    """One for the loop, one for threads; both do what the job says."""

    def __init__(self, record: Record, producer: Producer[Job]) -> None:
        self._record, self._producer = record, producer

    async def on_the_loop(self, job: Job, context: Context) -> DeadLetter | None:
        self._record.note(job.number, "start", context.attempt, context.id)
        reached("mid_handler")
        if job.action == "sleep":
            await asyncio.sleep(job.seconds)
        elif job.action == "block":
            time.sleep(job.seconds)
        elif job.action == "notice":
            await self._notice(job, context)
        elif job.action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif job.action == "spawn":
            await self._producer.send(Job(-job.number, seconds=job.seconds))
        elif job.action == "pay":
            await self._pay(job, context)
        elif job.action == "flaky":
            await asyncio.sleep(job.seconds)
            if context.attempt == 0:
                raise RuntimeError("told to fail the first time")
        elif job.action == "bury":
            await asyncio.sleep(job.seconds)
            return DeadLetter("buried", meta=job.number)
        self._record.note(job.number, "lost" if context.lease_lost else "end", context.attempt, context.id)
        reached("after_effect")
        return None

    def in_a_thread(self, job: Job, context: Context) -> None:
        self._record.note(job.number, "start", context.attempt, context.id)
        time.sleep(job.seconds)
        self._record.note(job.number, "lost" if context.lease_lost else "end", context.attempt, context.id)

    async def _pay(self, job: Job, context: Context) -> None:
        """An entry in the table ``ledger`` and a job that follows, in the transaction of the acknowledgement."""
        async with context.transaction() as connection:
            await connection.exec_driver_sql(f"INSERT INTO ledger VALUES ({job.number})")
            await self._producer.send(Job(-job.number), connection=connection)
            await asyncio.sleep(job.seconds)
            if job.number % 10 == 0 and context.attempt == 0:
                raise RuntimeError("told to fail before the commit")

    async def _notice(self, job: Job, context: Context) -> None:
        """Run for as long as the job says, and leave a line when the worker wants to stop."""
        until, noticed = time.monotonic() + job.seconds, False
        while time.monotonic() < until:
            if context.stopping and not noticed:
                self._record.note(job.number, "stopping", context.attempt)
                noticed = True
            await asyncio.sleep(0.01)


class Fields(logging.Formatter):
    """Level, text and the job's id."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname} {super().format(record)} [id={getattr(record, 'id', '')}]"


def worker_of(settings: Settings, record: Record) -> Worker:
    """One consumer with both handlers."""
    broker = crashing(open_broker(settings.url, **settings.options))
    handlers = Handlers(record, Producer(broker, settings.stream, Job, default_type="job"))
    consumer = Consumer(
        broker,
        settings.stream,
        Job,
        handlers.on_the_loop,
        types="job",
        concurrency=settings.concurrency,
        ordered="everywhere" if settings.everywhere else False,
        retry=RetryPolicy(max_attempts=settings.max_attempts, backoff=Constant(delay=settings.backoff)),
        claim=Claim(min_idle=settings.lease, interval=settings.interval),
        options=Options(prefetch=Prefetch(wait=settings.wait)),
    )
    consumer.handle(handlers.in_a_thread, Job, types="thread")
    consumer.handle(handlers.on_the_loop, Args, types="HardJob")
    return Worker(consumer, drain=settings.drain)


async def report_readiness(worker: Worker, record: Record) -> None:
    """Leave a line whenever readiness changes. The number 0 belongs to no job."""
    ready = False
    while True:
        if worker.ready != ready:
            ready = worker.ready
            record.note(0, "ready" if ready else "unready")
        await asyncio.sleep(0.01)


async def main(settings: Settings) -> None:
    record = Record(settings.record)
    worker = worker_of(settings, record)
    reporting = asyncio.create_task(report_readiness(worker, record))
    await worker.run()
    reporting.cancel()


if __name__ == "__main__":
    stream = logging.StreamHandler()
    stream.setFormatter(Fields())
    logging.basicConfig(level=logging.INFO, handlers=[stream])
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    factory = None
    if settings.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(settings))
