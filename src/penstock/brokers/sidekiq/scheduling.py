"""Jobs that are due: read, written anew, and moved, each only if it is still there.

Between reading and moving nothing is taken away: whoever removes a job from its set has it, so any number of pollers,
ours and Ruby's, may run at once. What cannot be read goes to the dead set as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from ...broker import Promoted
from ...clients.redis import Arg, RedisClient
from . import keys, ruby_json
from .scripts import DUE, PROMOTE
from .wire import Fields, Malformed, Timestamps, parse, pushed, queue_of

logger = logging.getLogger("penstock")

Repush: TypeAlias = "Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]"

LATER = 15.0  # seconds until a job is tried again whose middleware has failed


async def promote(
    client: RedisClient, limit: int, now: float, timestamps: Timestamps, repush: Repush | None
) -> Promoted:
    """Move up to ``limit`` due jobs to their queues."""
    retries, scheduled, wait = await client.run(DUE, (), [limit])
    count, args = 0, list[Arg]()
    for name, members in ((keys.RETRY, retries), (keys.SCHEDULE, scheduled)):
        for raw in members:
            args += [name, raw, *await _moved(raw, now, timestamps, repush)]
    if args:
        count = await client.run(PROMOTE, (), args)
    return Promoted(
        max(count, len(retries) + len(scheduled)) if count else 0, None if int(wait) < 0 else int(wait) / 1000
    )


async def _moved(raw: bytes, now: float, timestamps: Timestamps, repush: Repush | None) -> tuple[Arg, ...]:
    """What becomes of a job that is due."""
    try:
        fields = parse(raw)
        queue = queue_of(fields)
    except Malformed as wrong:
        logger.warning("a job that is due cannot be read and goes to the dead set: %s", wrong)
        return ("d",)
    if queue is None:
        logger.warning("a job that is due names no queue and goes to the dead set")
        return ("d",)
    if repush is None:
        return ("p", queue, pushed(fields, now, timestamps))
    try:
        payload = {name: msgspec.json.decode(value) for name, value in fields.items() if name != "at"}
    except (ValueError, RecursionError) as wrong:
        logger.warning("a job that is due cannot be read and goes to the dead set: %s", wrong)
        return ("d",)
    try:
        again = await repush(payload)
        if again is None:
            return ("v",)
        changed: Fields = {name: Raw(ruby_json.dumps(value)) for name, value in again.items()}
        text = pushed(changed, now, timestamps)
        parse(text)  # what is no job any more must not reach a queue
        return ("p", queue_of(changed) or queue, text)
    except Exception:
        logger.exception("middleware failed for a job that is due; it is tried again in %.0f s", LATER)
        return ("w", LATER)
