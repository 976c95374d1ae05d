"""The user's view of producers and consumers: this file is read by mypy and pyright, never run.

Lines that must be type errors carry an ignore; ``warn_unused_ignores`` makes a line that is no error fail the check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

import msgspec

from penstock import (
    Ack,
    Batch,
    Broker,
    Consumer,
    Context,
    DeadLetter,
    Envelope,
    Outcome,
    Producer,
    Retry,
    Send,
    Worker,
    open_broker,
    sync,
)


class EmailJob(msgspec.Struct):
    to: str
    subject: str


@dataclass
class Order:
    id: int


class Event(TypedDict):
    name: str


async def producing() -> None:
    broker = open_broker("memory://")
    assert_type(broker, Broker[Any])
    emails = Producer(broker, "email", EmailJob)
    assert_type(emails, Producer[EmailJob])
    assert_type(await emails.send(EmailJob("a", "b"), key="k", delay=5), str)
    await emails.send(EmailJob("a", "b"), timeout=2.5, expires=3600)
    await emails.send(EmailJob("a", "b"), expires="soon")  # type: ignore[arg-type]
    assert_type(await emails.send_many([EmailJob("a", "b"), Send(EmailJob("a", "b"), key="k")]), list[str])
    await emails.send("not a job")  # type: ignore[arg-type]
    await emails.send(Order(1))  # type: ignore[arg-type]
    await Producer(broker, "orders", Order).send(Order(1))
    await Producer(broker, "events", Event).send({"name": "x"})
    await Producer(broker, "events", Event).send({"nome": "x"})  # type: ignore[typeddict-item]
    await Producer(broker, "plain", dict[str, int]).send({"n": 1})


async def on_email(job: EmailJob) -> None:
    assert_type(job.to, str)


async def on_email_with_context(job: EmailJob, context: Context) -> Outcome | None:
    if context.attempt:
        return Retry(delay=10)
    if context.lease_lost:
        return DeadLetter("late", meta={"at": 1})
    return context.ack()


def on_email_in_a_thread(job: EmailJob) -> Ack:
    return Ack()


async def on_emails(jobs: list[EmailJob]) -> list[Outcome | Exception | None]:
    assert_type(jobs[0].to, str)
    return [None, OSError("mine"), Retry(5), *(Ack() for _ in jobs[3:])]


def on_emails_with_contexts(jobs: list[EmailJob], contexts: list[Context]) -> None:
    contexts[0].check()


async def on_order(order: Order) -> None: ...


async def audit(envelope: Envelope[Any], call_next: Any) -> Outcome:
    outcome: Outcome = await call_next(envelope)
    return outcome


async def consuming(broker: Broker[Any]) -> None:
    consumer = Consumer(broker, "email", EmailJob, on_email, group="g", middleware=[audit])
    assert_type(consumer, Consumer[EmailJob])
    Consumer(broker, "email", EmailJob, on_email_with_context)
    Consumer(broker, "email", EmailJob, on_email_in_a_thread)
    Consumer(broker, "email", EmailJob, on_order)  # type: ignore[arg-type]
    Consumer(broker, "email", EmailJob, on_email, timeout=30)
    assert_type(Consumer(broker, "email", EmailJob, on_emails, batch=Batch(size=10)), Consumer[EmailJob])
    Consumer(broker, "email", EmailJob, on_emails_with_contexts, batch=Batch(wait=0.1), concurrency=2, timeout=5)
    Consumer(broker, "email", EmailJob, on_email_with_context, ordered=True)
    Consumer(broker, "email", EmailJob, on_email_with_context, ordered="everywhere")
    Consumer(broker, "email", EmailJob, on_emails, batch=Batch(), ordered="everywhere")
    Consumer(broker, "email", EmailJob, on_email, ordered="here")  # type: ignore[call-overload]
    Consumer(broker, "email", EmailJob, on_emails, batch=Batch(), ordered=True)  # type: ignore[call-overload]
    Consumer(broker, "email", EmailJob, on_emails)  # type: ignore[arg-type]
    Consumer(broker, "email", EmailJob, on_email, batch=Batch())  # type: ignore[arg-type]
    Consumer(broker, "email", EmailJob, on_emails, batch=Batch(), middleware=[audit])  # type: ignore[call-overload]
    async with Worker(consumer) as worker:
        assert_type(worker, Worker)
        assert_type(await worker.stop(timeout=1.0), bool)


def synchronously() -> None:
    emails = sync.Producer(open_broker("memory://"), "email", EmailJob)
    assert_type(emails, sync.Producer[EmailJob])
    assert_type(emails.send(EmailJob("a", "b"), delay=5), str)
    assert_type(emails.send_many([Send(EmailJob("a", "b"), key="k")]), list[str])
    emails.send(Order(1))  # type: ignore[arg-type]
    assert_type(sync.Inspector(emails.broker).requeue("email", ["1"]), int)
