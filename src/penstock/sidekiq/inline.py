"""A job run where it is pushed: what ``perform_inline`` and the testing modes share."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from ..errors import UnknownType
from ..job import JOBS, Job
from .chain import Chain
from .context import Context
from .payload import Payload


def job_class(name: str) -> type[Job]:
    """The class of a wire name. Raises ``UnknownType``."""
    cls = JOBS.resolve(name)
    if cls is None:
        raise UnknownType(f"no job named {name!r} is defined here; there are: {', '.join(JOBS.names) or 'none'}")
    return cls


async def run_inline(cls: type[Job], payload: Payload, middleware: Chain) -> Any:
    """An instance of ``cls`` performs the payload, within the server middleware. What it raises is raised."""
    job = cls()
    job.jid = payload["jid"]

    async def perform() -> Any:
        if inspect.iscoroutinefunction(job.perform):
            return await job.perform(*payload["args"])
        result: Any = await asyncio.to_thread(job.perform, *payload["args"])
        return await result if inspect.isawaitable(result) else result

    with Context.with_({"jid": job.jid, "class": payload.get("wrapped") or payload["class"]}):
        return await middleware.invoke(perform, job, payload, payload["queue"])
