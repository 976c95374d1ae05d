"""From an error to an outcome: the decisions of ``job_retry``, the hooks of the job's class, who is told.

The outcome is the broker's to apply: a retry writes the failure into the job's own text, as it was before anybody
touched its parsed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any, Protocol

from ..clock import SYSTEM_CLOCK, Clock
from ..outcome import DISCARDED, DeadLetter, Outcome, Retry
from . import job_retry
from .handlers import Handlers
from .job_retry import Timestamps, recordable
from .payload import Payload


class JobClasses(Protocol):
    """Job classes by the names that they have in payloads."""

    def resolve(self, name: str, /) -> type[Any] | None:
        """The class of that name, or ``None``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What becomes of jobs that fail. ``max_retries``: for those that name no number themselves."""

    jobs: JobClasses
    handlers: Handlers
    max_retries: int = 25
    timestamps: Timestamps = "ms"
    clock: Clock = SYSTEM_CLOCK
    dice: Random = field(default_factory=SystemRandom)

    async def outcome(self, error: BaseException, payload: Payload, queue: str, count: int) -> Outcome:
        """The outcome of failure number ``count``, from 0, of a job; whoever is to be told has been."""
        try:
            outcome = await self._decided(error, payload, queue, count)
        except Exception as broken:  # noqa: BLE001 whatever is wrong here must not cost the job
            await self.handlers.report(broken, {"context": "Internal exception!", "job": payload, "queue": queue})
            wait = job_retry.verdict(None, count, self.dice).delay
            outcome = Retry(wait, recordable(error))
        await self.handlers.report(error, {"context": "Job raised exception", "job": payload, "queue": queue})
        return outcome

    async def _decided(self, error: BaseException, payload: Payload, queue: str, count: int) -> Outcome:
        job = self._class_of(payload["class"])
        options: dict[str, Any] = getattr(job, "sidekiq_options", None) or {}
        if not job_retry.is_retried(payload, options):
            await self.handlers.died(payload, error)
            return DISCARDED
        now = self.clock.time()
        marked = job_retry.failed(payload, error, queue=queue, count=count, now=now, timestamps=self.timestamps)
        if job_retry.is_exhausted(marked, options, now=now, max_retries=self.max_retries):
            return await self._exhausted(error, marked, job)
        answer = await self._asked("retry_in", job, marked, count, error, marked)
        verdict = job_retry.verdict(answer, count, self.dice)
        if verdict.fate == "again":
            return Retry(verdict.delay, recordable(error))
        if verdict.fate == "exhausted":
            return await self._exhausted(error, marked, job)
        return await self._discarded(error, marked)

    async def _exhausted(self, error: BaseException, marked: Payload, job: type[Any] | None) -> Outcome:
        answer = await self._asked("retries_exhausted", job, marked, marked, error)
        if not job_retry.is_kept(marked, answer):
            return await self._discarded(error, marked)
        await self.handlers.died(marked, error)
        return DeadLetter("", recordable(error))

    async def _discarded(self, error: BaseException, marked: Payload) -> Outcome:
        await self.handlers.died(job_retry.discarded(marked, self.clock.time(), self.timestamps), error)
        return DISCARDED

    async def _asked(self, name: str, job: type[Any] | None, payload: Payload, *arguments: Any) -> Any:
        """What a hook of the job's class answers: of the class that is wrapped, where one is."""
        wrapped = payload.get("wrapped")
        owner = job if wrapped is None else self._class_of(str(wrapped))
        hook: Callable[..., Any] | None = getattr(owner, f"sidekiq_{name}", None)
        context = {"context": f"Failure in {name} of {payload['class']}, the default holds", "job": payload}
        return await self.handlers.asked(hook, context, *arguments)

    def _class_of(self, name: str) -> type[Any] | None:
        """The class, if there is one to ask: that there is none, or that there are two, may be why the job failed."""
        try:
            return self.jobs.resolve(name)
        except Exception:  # noqa: BLE001 it was raised before, and is reported
            return None
