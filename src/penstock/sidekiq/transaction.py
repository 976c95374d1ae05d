"""Commands that Redis applies as one."""

from __future__ import annotations

from typing import Any, cast

from ..clients.redis import Command, RedisClient


async def together(client: RedisClient, *commands: Command) -> list[Any]:
    """The replies. Raises the first error that is among them; the other commands have been applied then."""
    *queued, results = await client.many([("MULTI",), *commands, ("EXEC",)])
    for reply in (*queued, results) if isinstance(results, Exception) else results:
        if isinstance(reply, Exception):
            raise reply
    return cast("list[Any]", results)
