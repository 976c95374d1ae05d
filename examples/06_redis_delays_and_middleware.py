"""On Redis: messages for later, a middleware around every handler, and telemetry that adds up."""

# server: redis

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from penstock import Consumer, Envelope, Outcome, Producer, Telemetry, Worker, open_broker
from penstock.telemetry import Event, Finished

broker = open_broker("redis://localhost:6379")
outcomes = Counter[str]()


def count(event: Event) -> None:
    if isinstance(event, Finished):
        outcomes[event.outcome] += 1


async def timed(envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Awaitable[Outcome]]) -> Outcome:
    """Any callable of this shape is a middleware. It may look, change, refuse, or return an outcome of its own."""
    began = time.perf_counter()
    outcome = await call_next(envelope)
    print(f"{envelope.message.type}: {type(outcome).__name__} in {(time.perf_counter() - began) * 1000:.2f} ms")
    return outcome


async def remind(job: dict) -> None:
    print(f"{job['what']}, {time.time() - job['asked_at']:.1f} s after it was asked for")


reminders = Consumer(broker, "reminders", dict, remind, middleware=[timed])


async def main() -> None:
    telemetry = Telemetry(count)
    producer = Producer(broker, "reminders", dict, default_type="reminder", telemetry=telemetry)
    for delay in (0.6, 0.3, 0.0):
        await producer.send({"what": f"tea in {delay} s", "asked_at": time.time()}, delay=delay)

    async with Worker(reminders, telemetry=telemetry):
        while reminders.counters.acked < 3:
            await asyncio.sleep(0.01)
    print(dict(outcomes))
    assert outcomes == {"ack": 3}


asyncio.run(main())
