"""Runs jobs that carry their own data: the engine's handler for classes with ``handle``, and what a failure comes to.

A failed job is tried again after its backoff, as often as it, its class or the worker allow; then its ``failed`` is
called and it is a dead letter. ``failed`` runs before that is written: after a crash in between it runs once more.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from ..context import Context
from ..errors import HandlerTimeout
from ..job import Job
from ..job_terms import backoff_delay, terms_of
from ..message import Delivery, Message
from ..outcome import Ack, DeadLetter, Outcome, Release, Retry
from ..threads import Threads, in_thread

logger = logging.getLogger("penstock.job")

OnFailed: TypeAlias = Callable[[Job, BaseException], Any]

MAX_ATTEMPTS: Final = 3


@dataclass(slots=True)
class Handling:
    """Runs ``handle`` of a job: a coroutine on the loop, a plain method in one of ``threads``.

    ``max_attempts``: for jobs that do not say. ``on_failed``: told of each job that failed for the last time.
    """

    threads: Threads
    max_attempts: int = MAX_ATTEMPTS
    on_failed: OnFailed | None = None

    async def __call__(self, job: Job, context: Context) -> Outcome | None:
        """Run one job."""
        begin(job, job_id(context), context.attempt + 1)
        try:
            if inspect.iscoroutinefunction(job.handle):
                result = await job.handle()
            else:
                result = await in_thread(self.threads, context, job.handle)
                if inspect.isawaitable(result):  # a plain wrapper of a coroutine function
                    result = await result
        except BaseException as error:  # noqa: BLE001 whatever a job raises is a failure of it: a panic, an exit
            return await self._failed(job, context, _of_the_job(error, context))
        if isinstance(result, Retry) and result.counts and (result.delay is None or self._is_last(job, context)):
            return await self._failed(job, context, result.error or RuntimeError(f"{job.wire_name} asked for a retry"))
        return result if isinstance(result, Ack | Retry | DeadLetter | Release) else None

    async def _failed(self, job: Job, context: Context, error: BaseException) -> Outcome:
        if not self._is_last(job, context):
            backoff = terms_of(context.headers).backoff or job.terms.backoff
            return Retry(backoff_delay(backoff, context.attempt + 1), error)
        await self.tell(job, error)
        return DeadLetter(f"maxAttempts({self._most(job, context)})", error)

    def _most(self, job: Job, context: Context) -> int:
        return terms_of(context.headers).max_attempts or job.terms.max_attempts or self.max_attempts

    def _is_last(self, job: Job, context: Context) -> bool:
        return context.attempt + 1 >= self._most(job, context)

    async def tell(self, job: Job, error: BaseException) -> None:
        """Tell the job, and whoever listens, that it has failed for good. Raises nothing of theirs."""
        await _told(f"failed of {job.wire_name}", partial(job.failed, error))
        if self.on_failed is not None:
            await _told("on_failed", partial(self.on_failed, job, error))

    def refused(self, delivery: Delivery[Any], outcome: DeadLetter, cls: type[Job]) -> None:
        """Tell a job that is dead without having run: it has killed too many workers, or is too old."""
        try:
            job = cls.fields().decode(delivery.message.body)
        except Exception:  # noqa: BLE001 then there is no job to be told
            return
        begin(job, job_id(delivery.message), delivery.attempt)
        error = outcome.error or RuntimeError(outcome.reason)
        task = asyncio.get_running_loop().create_task(self.tell(job, error))
        _TELLING.add(task)
        task.add_done_callback(_TELLING.discard)


_TELLING: set[asyncio.Task[None]] = set()


def job_id(message: Message | Context) -> str:
    """The id that ``push`` gave the job; the message's own, if somebody else has written it."""
    ident = message.headers.get("jid")
    return ident if isinstance(ident, str) and ident else message.id


def begin(job: Job, ident: str, tries: int) -> None:
    """Note on a job which one it is."""
    job.jid, job.tries = ident, tries


async def _told(who: str, call: Callable[[], Any]) -> None:
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("%s raised", who)


def _of_the_job(error: BaseException, context: Context) -> BaseException:
    """The failure of a job. Raises what is not the job's: the end of its task, of the process."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    if not isinstance(error, asyncio.CancelledError):
        return error
    task = asyncio.current_task()
    if task is not None and task.cancelling() > (1 if context.timed_out else 0):
        raise error
    return HandlerTimeout().with_traceback(error.__traceback__) if context.timed_out else error
