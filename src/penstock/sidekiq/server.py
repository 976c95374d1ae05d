"""The server, looked at once when a process starts: what Ruby's Sidekiq refuses or warns of as well."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..clients.redis import RedisClient
from ..errors import AccessDenied

OLDEST = 7  # the release from which on all commands are there that are used here, such as EXPIRE NX
_KEEPS = ("noeviction", "")

logger = logging.getLogger("penstock.sidekiq")


async def examine(client: RedisClient) -> None:
    """Log what may cost jobs. A server that does not let itself be looked at is taken as it is."""
    (info,) = await client.many([("INFO",)])
    if isinstance(info, AccessDenied):
        return
    if isinstance(info, Exception):
        raise info
    lines = info.decode(errors="replace").splitlines()
    for complaint in complaints(dict(line.split(":", 1) for line in lines if ":" in line)):
        logger.warning(complaint)


def complaints(facts: Mapping[str, str]) -> list[str]:
    """What is wrong with a server of which ``INFO`` says this."""
    found: list[str] = []
    version, policy = facts.get("redis_version", ""), facts.get("maxmemory_policy", "")
    first = version.partition(".")[0]
    if first.isdecimal() and int(first) < OLDEST and "valkey_version" not in facts:
        found.append(
            f"Redis {version} is too old: Sidekiq's schema wants Redis {OLDEST} or newer, or Valkey; upgrade it"
        )
    if policy not in _KEEPS:
        found.append(
            f"maxmemory-policy is {policy!r}: the server may throw jobs away when its memory is full; set it to noeviction"
        )
    return found
