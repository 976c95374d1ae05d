"""The worker program of the crash tests, and a sender: they die where ``PENSTOCK_CRASH_AT`` says.

The same program as in ``tests/end_to_end/jobs.py``, with a broker that dies and handlers that may.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from penstock import Context, Producer, open_broker
from penstock.broker import Broker
from penstock.testing import crashing, reached
from tests.end_to_end import jobs


class DyingHandlers(jobs.Handlers):
    """Pass two points on their way."""

    async def on_the_loop(self, job: jobs.Job, context: Context) -> None:
        self._record.note(job.number, "start", context.attempt)
        reached("mid_handler")
        if job.action == "fail" and context.attempt == 0:
            raise RuntimeError("told to fail the first time")
        self._record.note(job.number, "end", context.attempt)
        reached("after_effect")


def dying(url: str, **options: Any) -> Broker[Any]:
    return crashing(open_broker(url, **options))


async def send(settings: jobs.Settings, numbers: range) -> None:
    """Send each job until it is certain that the broker has it."""
    broker = dying(settings.url)
    producer = Producer(broker, settings.stream, jobs.Job, default_type="job")
    for number in numbers:
        await producer.send(jobs.Job(number))
    await broker.close()


if __name__ == "__main__":
    settings = msgspec.json.decode(sys.argv[1], type=jobs.Settings)
    if len(sys.argv) > 2:
        asyncio.run(send(settings, range(1, int(sys.argv[2]) + 1)))
    else:
        jobs.open_broker = dying
        jobs.Handlers = DyingHandlers
        asyncio.run(jobs.main(settings))
