"""The processes that work on this database, ours and Ruby's, as their last heartbeats tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from ...brokers.sidekiq import keys
from ...clients.redis import Command
from ...errors import UnsupportedFeature
from .data import Data

LEADER: Final = "dear-leader"
CLEANUP, CLEANUP_EVERY = "process_cleanup", 60
SIGNAL_KEPT = 60  # seconds: a process that does not beat by then is gone
_FACTS: Final = ("info", "busy", "beat", "quiet", "rss", "rtt_us", "concurrency")


class Process:
    """One process at its last heartbeat. What else its heartbeat says is in ``info``."""

    def __init__(self, data: Data, identity: str, facts: Sequence[bytes | None]) -> None:
        info, busy, beat, quiet, rss, rtt, concurrency = facts
        self._data, self.identity = data, identity
        self.info: dict[str, Any] = _info(info)
        self.busy, self.rss, self.rtt_us = int(busy or 0), int(rss or 0), int(rtt or 0)
        self.beat_at = float(beat or 0)
        self.stopping = quiet == b"true"
        self.concurrency = int(concurrency or self.info.get("concurrency") or 0)

    def __repr__(self) -> str:
        return f"<Process {self.identity} busy={self.busy}/{self.concurrency}>"

    def __getitem__(self, name: str) -> Any:
        """A fact of the heartbeat's ``info``, or ``None``."""
        return self.info.get(name)

    @property
    def tag(self) -> str:
        return str(self.info.get("tag") or "")

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in self.info.get("labels") or ()]

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(float(self.info.get("started_at") or 0), UTC)

    @property
    def capsules(self) -> dict[str, Any]:
        """By name: concurrency, mode, and weights by queue. From 8.0.9 on."""
        return self.info.get("capsules") or {}

    @property
    def weights(self) -> list[dict[str, int]]:
        """For each capsule its queues and their weights. From 7.0.2 on; before that of 8.0.9 at least."""
        return self.info.get("weights") or [dict(each.get("weights") or {}) for each in self.capsules.values()]

    @property
    def queues(self) -> list[str]:
        names = [queue for each in self.capsules.values() for queue in each.get("weights") or ()]
        return list(dict.fromkeys(names or self.info.get("queues") or ()))

    @property
    def version(self) -> str | None:
        """Of Sidekiq, or whatever runs there."""
        return self.info.get("version")

    @property
    def embedded(self) -> bool:
        """Whether it runs inside another program, which alone may stop it."""
        return bool(self.info.get("embedded"))

    async def leader(self) -> bool:
        """Whether it is the leader of all processes."""
        return bool(await self._data.client.call("GET", LEADER) == self.identity.encode())

    async def quiet(self) -> None:
        """Have it take no more jobs. Raises ``UnsupportedFeature`` if it is embedded."""
        await self._signal("TSTP", "quieted")

    async def stop(self) -> None:
        """Have it finish its jobs and end. Raises ``UnsupportedFeature`` if it is embedded."""
        await self._signal("TERM", "stopped")

    async def dump_threads(self) -> None:
        """Have it log what its threads are doing."""
        await self._signal("TTIN")

    async def _signal(self, name: str, done: str = "") -> None:
        if done and self.embedded:
            raise UnsupportedFeature(f"{self.identity} is embedded and cannot be {done} from here; its program can")
        key = keys.signals(self.identity)
        await self._data.many([("MULTI",), ("LPUSH", key, name), ("EXPIRE", key, SIGNAL_KEPT), ("EXEC",)])


class ProcessSet:
    """All processes. ``async for`` shows them by name; the first time it removes those that have died, if ``clean``."""

    def __init__(self, data: Data, *, clean: bool = True) -> None:
        self._data, self._clean = data, clean

    async def size(self) -> int:
        """How many there are by the list, which is cleaned once a minute."""
        return int(await self._data.client.call("SCARD", keys.PROCESSES))

    def __aiter__(self) -> AsyncIterator[Process]:
        return self.each()

    async def each(self) -> AsyncIterator[Process]:
        """Those alive."""
        if self._clean:
            self._clean = False
            await self.cleanup()
        names = await self._data.members(keys.PROCESSES)
        found = await self._data.many([("HMGET", name, *_FACTS) for name in names])
        for name, facts in zip(names, found, strict=True):
            if facts[0] is not None:
                yield Process(self._data, name, facts)

    async def find(self, identity: str) -> Process | None:
        """One of them, if it lives."""
        known, facts = await self._data.many([("SISMEMBER", keys.PROCESSES, identity), ("HMGET", identity, *_FACTS)])
        return Process(self._data, identity, facts) if known and facts[0] is not None else None

    async def cleanup(self) -> int:
        """Remove from the list whoever has not told of itself for a minute; how many. Once a minute, whoever asks."""
        if not await self._data.client.call("SET", CLEANUP, "1", "NX", "EX", CLEANUP_EVERY):
            return 0
        names = await self._data.members(keys.PROCESSES)
        commands: list[Command] = [("HGET", name, "info") for name in names]
        beats = await self._data.many(commands)
        gone = [name for name, info in zip(names, beats, strict=True) if info is None]
        return int(await self._data.client.call("SREM", keys.PROCESSES, *gone)) if gone else 0

    async def total_concurrency(self) -> int:
        """How many jobs may be at work at once, in all."""
        return sum([process.concurrency async for process in self])

    async def total_rss(self) -> int:
        """Their resident memory, in KiB."""
        return sum([process.rss async for process in self])

    async def leader(self) -> str:
        """The identity of the leader, or an empty text."""
        return str((await self._data.client.call("GET", LEADER) or b"").decode())


def _info(text: bytes | None) -> dict[str, Any]:
    try:
        info: Any = json.loads(text or b"{}")
    except ValueError:
        return {}
    return cast("dict[str, Any]", info) if isinstance(info, dict) else {}
