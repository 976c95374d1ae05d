"""The processes that run jobs, Ruby's and ours: what they are, and asking them to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from ...brokers.sidekiq import keys
from ...errors import UnsupportedFeature
from .data import Data

SIGNALS_KEPT: Final = 60  # seconds until a process that does not answer is asked no more
FIELDS: Final = ("info", "concurrency", "busy", "beat", "quiet", "rss", "rtt_us")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as of its last heartbeat. ``item``: everything that it says of itself, under Sidekiq's names."""

    data: Data
    identity: str
    item: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.item.get(name)

    @property
    def tag(self) -> str:
        return str(self.item.get("tag") or "")

    @property
    def labels(self) -> list[str]:
        return _texts(self.item.get("labels"))

    @property
    def queues(self) -> list[str]:
        """Those of all capsules."""
        weights = [each for capsule in self.capsules.values() for each in capsule["weights"]]
        return list(dict.fromkeys(weights)) or _texts(self.item.get("queues"))

    @property
    def capsules(self) -> dict[str, dict[str, Any]]:
        """By name, with ``concurrency``, ``mode`` and ``weights``; of processes before Sidekiq 8.0.9 none."""
        value: Any = self.item.get("capsules")
        return cast("dict[str, dict[str, Any]]", value) if isinstance(value, dict) else {}

    @property
    def weights(self) -> list[dict[str, int]]:
        """Of each capsule."""
        return [dict(each["weights"]) for each in self.capsules.values()] or list(self.item.get("weights") or [])

    @property
    def version(self) -> str:
        return str(self.item.get("version") or "")

    @property
    def embedded(self) -> bool:
        """Whether it lives in another program, which alone may stop it."""
        return bool(self.item.get("embedded"))

    @property
    def concurrency(self) -> int:
        return int(self.item.get("concurrency") or 0)

    @property
    def busy(self) -> int:
        return int(self.item.get("busy") or 0)

    @property
    def rss(self) -> int:
        """Memory, in KiB."""
        return int(self.item.get("rss") or 0)

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(float(self.item.get("started_at") or 0.0), UTC)

    @property
    def stopping(self) -> bool:
        """Whether it takes no more jobs."""
        return self.item.get("quiet") == "true"

    async def leader(self) -> bool:
        """Whether it leads."""
        return await ProcessSet(self.data).leader() == self.identity

    async def quiet(self) -> None:
        """Ask it to take no more jobs. Raises ``UnsupportedFeature`` for an embedded one."""
        await self._signal("TSTP")

    async def stop(self) -> None:
        """Ask it to end. Raises ``UnsupportedFeature`` for an embedded one."""
        await self._signal("TERM")

    async def dump_threads(self) -> None:
        """Ask it to log what its threads do."""
        await self._signal("TTIN")

    async def _signal(self, name: str) -> None:
        if self.embedded and name != "TTIN":
            raise UnsupportedFeature(f"{self.identity} is embedded in another program: stop it there")
        key = keys.signals(self.identity)
        await self.data.many([("MULTI",), ("LPUSH", key, name), ("EXPIRE", key, SIGNALS_KEPT), ("EXEC",)])


class ProcessSet:
    """All of them. ``async for`` shows those that are alive, by identity."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[Process]:
        return self.each()

    async def each(self) -> AsyncIterator[Process]:
        """Those that are alive."""
        names = await self._data.members(keys.PROCESSES)
        replies = await self._data.many([("HMGET", name, *FIELDS) for name in names])
        for name, reply in zip(names, replies, strict=True):
            process = self._process(name, reply)
            if process is not None:
                yield process

    async def get(self, identity: str) -> Process | None:
        """The one with this identity, if it is alive."""
        member, reply = await self._data.many([("SISMEMBER", keys.PROCESSES, identity), ("HMGET", identity, *FIELDS)])
        return self._process(identity, reply) if member else None

    async def size(self) -> int:
        """How many there are by the last cleanup: dead ones among them for up to a minute."""
        return int(await self._data.client.call("SCARD", keys.PROCESSES))

    async def cleanup(self) -> int:
        """Take the dead from the list, at most once a minute for all who ask; how many."""
        if await self._data.client.call("SET", "process_cleanup", "1", "NX", "EX", 60) is None:
            return 0
        names = await self._data.members(keys.PROCESSES)
        alive = await self._data.many([("HEXISTS", name, "info") for name in names])
        dead = [name for name, lives in zip(names, alive, strict=True) if not lives]
        if dead:
            await self._data.client.call("SREM", keys.PROCESSES, *dead)
        return len(dead)

    async def leader(self) -> str:
        """The identity of the leader, or an empty text."""
        name = await self._data.client.call("GET", "dear-leader")
        return "" if name is None else name.decode()

    async def total_concurrency(self) -> int:
        return sum([each.concurrency async for each in self])

    async def total_rss(self) -> int:
        """Memory of all of them, in KiB."""
        return sum([each.rss async for each in self])

    def _process(self, name: str, reply: Sequence[bytes | None]) -> Process | None:
        facts = dict(zip(FIELDS, reply, strict=True))
        if facts["info"] is None:
            return None
        item: dict[str, Any] = msgspec.json.decode(facts["info"])
        item |= {key: value.decode() for key, value in facts.items() if value is not None and key != "info"}
        return Process(self._data, name, item)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
