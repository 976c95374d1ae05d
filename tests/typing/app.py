"""The user's view of an app and its jobs: this file is read by mypy and pyright, never run.

Lines that must be type errors carry an ignore; ``warn_unused_ignores`` makes a line that is no error fail the check.
"""

from __future__ import annotations

from typing import assert_type

from penstock import App, Job, WorkerOptions
from penstock.queueing.pushing import Push


class SendMail(Job, queue="emails", priority="high", max_attempts=5):
    to: str
    copies: int = 1

    async def handle(self) -> None:
        self.logger.info("to %s, try %d of %s", self.to, self.tries, self.jid)

    async def failed(self, error: BaseException) -> None:
        self.logger.error("%s: %s", self.to, error)


class Resize(Job):
    def __init__(self, image: str) -> None:
        self.image = image

    def handle(self) -> None:
        self.logger.info(self.image)


async def pushes(app: App) -> None:
    app.push(SendMail("forgotten"))  # type: ignore[unused-awaitable]
    push: Push[SendMail] = app.push(SendMail("a@x"))
    await push
    assert_type(
        await app.push(SendMail("a@x")).on_queue("emails").with_priority("high").delay(60).backoff(5, 2), SendMail
    )
    assert_type(await app.push_many([SendMail("a@x", copies=2)]), list[SendMail])
    await app.push(Resize("i").on_connection("other").in_group("g").attempts(3))
    SendMail()  # type: ignore[call-arg]
    SendMail("a@x", "2")  # type: ignore[arg-type]
    Resize(1)  # type: ignore[arg-type]
    await app.push("a@x")  # type: ignore[type-var]
    await app.push(SendMail("a@x")).with_priority("urgent")  # type: ignore[arg-type]
    await app.push(SendMail("a@x")).delay("soon")  # type: ignore[arg-type]


async def pops(app: App) -> None:
    job = await app.pop("emails")
    assert_type(job, Job | None)
    if isinstance(job, SendMail):
        await app.complete(job)
        await app.fail(job, ValueError(job.to))


def options() -> None:
    WorkerOptions(queues=["a"], rate_limits={"a": {"limit": 10, "window": 60}})
    WorkerOptions(queues=["a"], concurrency="10")  # type: ignore[arg-type]
