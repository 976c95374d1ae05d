"""The half of an app that looks at its queues and mends them: sizes, pauses, what has failed for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..broker import Broker
from ..inspector import Inspector
from ..job_terms import lanes
from .failed import FailedJob, failed_job


class Inspecting(ABC):
    """What an ``App`` can tell and mend of a queue, with all its priorities."""

    @abstractmethod
    def broker(self, connection: str | None = None) -> Broker[Any]:
        """The broker of a connection."""

    async def size(self, queue: str = "default", connection: str | None = None) -> int:
        """Jobs waiting in a queue, of every priority; neither those that run nor those that are delayed."""
        stats = await (await self._inspector(connection)).stats(*lanes(queue))
        return sum(max(each.size - max((group.leased for group in each.groups), default=0), 0) for each in stats)

    async def clear(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete everything that waits in a queue, now or later; how many. What runs, and what is dead, stays."""
        inspector = await self._inspector(connection)
        return sum([await inspector.purge(name) for name in lanes(queue)])

    async def get_failed(
        self, queue: str = "default", start: int = 0, end: int = -1, connection: str | None = None
    ) -> list[FailedJob]:
        """The dead letters of a queue, the newest first; ``start`` and ``end`` as of a Redis list, both included."""
        inspector = await self._inspector(connection)
        letters = (await _failed_in(inspector, queue))[::-1]
        return letters[start:] if end == -1 else letters[start : end + 1 if end >= 0 else end + 1 or None]

    async def retry_failed(self, queue: str = "default", count: int = 1, connection: str | None = None) -> int:
        """Put the ``count`` oldest dead letters back, as fresh jobs; how many there were."""
        return await self._of_the_dead(queue, count, connection, Inspector.requeue)

    async def clear_failed(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete the dead letters of a queue for good; how many there were."""
        return await self._of_the_dead(queue, None, connection, Inspector.purge_dead)

    async def _of_the_dead(self, queue: str, count: int | None, connection: str | None, act: Any) -> int:
        inspector = await self._inspector(connection)
        letters = await _failed_in(inspector, queue)
        done = 0
        for name in lanes(queue):
            ids = [letter.letter for letter in letters[:count] if letter.queue == name]
            done += await act(inspector, name, ids) if ids else 0
        return done

    async def pause(self, queue: str = "default", connection: str | None = None) -> bool:
        """Have every worker fetch no more from a queue; false if it was paused already. Raises ``UnsupportedFeature``."""
        inspector = await self._inspector(connection)
        return any([await inspector.pause(name) for name in lanes(queue)])

    async def resume(self, queue: str = "default", connection: str | None = None) -> bool:
        """Let them go on; false if it was not paused. Raises as ``pause`` does."""
        inspector = await self._inspector(connection)
        return any([await inspector.resume(name) for name in lanes(queue)])

    async def _inspector(self, connection: str | None) -> Inspector:
        broker = self.broker(connection)
        await broker.open()
        return Inspector(broker)


async def _failed_in(inspector: Inspector, queue: str) -> list[FailedJob]:
    """The dead letters of a queue, of every priority, the oldest first."""
    found = [failed_job(letter, name) for name in lanes(queue) async for letter in inspector.each_dead(name)]
    return sorted(found, key=_failed_at)


def _failed_at(job: FailedJob) -> float:
    return job.failed_at or 0.0
