"""Deploy marks: lines in the charts of the metrics pages that say when something new began to run."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

from ..clients.redis import RedisClient
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError
from .transaction import together

TTL = 90 * 86_400  # seconds that a day's marks are kept
LOCK = 60  # seconds in which many processes that start at once make one mark


def marks_key(day: date) -> str:
    """The hash of a day."""
    return f"{day:%Y%m%d}-marks"


async def mark(
    client: RedisClient, label: str | None = None, *, at: float | None = None, clock: Clock = SYSTEM_CLOCK
) -> bool:
    """Mark a deploy, by default with the last commit; false if one of this label was marked within the minute.

    Call it once for each deploy, or from every process that starts: one mark is made. ``at``: seconds since the epoch.
    """
    label = label if label is not None else await git_label()
    if not label:
        raise ConfigurationError("a deploy mark needs a label, and there is no commit here; say mark(client, 'v2.1')")
    moment = datetime.fromtimestamp(clock.time() if at is None else at, UTC).replace(second=0, microsecond=0)
    stamp, key = f"{moment:%Y-%m-%dT%H:%M:%S}Z", marks_key(moment)
    if await client.call("SET", f"deploylock-{label}", stamp, "NX", "EX", LOCK) is None:
        return False
    await together(client, ("HSETNX", key, stamp, label), ("EXPIRE", key, TTL))
    return True


async def git_label() -> str | None:
    """The last commit of the working directory: its short hash and its subject."""
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "log", "-1", "--format=%h %s", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    out, _ = await process.communicate()
    return out.decode("utf-8", "replace").strip() or None
