"""The half of an app that looks at its queues and mends them: sizes, pauses, what has failed for good."""

from __future__ import annotations

from ..job_terms import lanes
from . import failed as dead
from .connections import Connections
from .failed import FailedJob


class Inspecting:
    """What an ``App`` can tell and mend of a queue, with all its priorities."""

    _connections: Connections

    async def size(self, queue: str = "default", connection: str | None = None) -> int:
        """Jobs waiting in a queue, of every priority; neither those that run nor those that are delayed."""
        return await dead.waiting(await self._connections.inspector(connection), queue)

    async def clear(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete everything that waits in a queue, now or later; how many. What runs, and what is dead, stays."""
        inspector = await self._connections.inspector(connection)
        return sum([await inspector.purge(name) for name in lanes(queue)])

    async def get_failed(
        self, queue: str = "default", start: int = 0, end: int = -1, connection: str | None = None
    ) -> list[FailedJob]:
        """The dead letters of a queue, the newest first; ``start`` and ``end`` as of a Redis list, both included."""
        letters = (await dead.failed(await self._connections.inspector(connection), queue))[::-1]
        return letters[start : None if end == -1 else end + 1]

    async def retry_failed(self, queue: str = "default", count: int = 1, connection: str | None = None) -> int:
        """Put the ``count`` oldest dead letters back, as fresh jobs; how many there were."""
        return await dead.put_back(await self._connections.inspector(connection), queue, count)

    async def clear_failed(self, queue: str = "default", connection: str | None = None) -> int:
        """Delete the dead letters of a queue for good; how many there were."""
        return await dead.clear(await self._connections.inspector(connection), queue)

    async def pause(self, queue: str = "default", connection: str | None = None) -> bool:
        """Have every worker fetch no more from a queue; false if it was paused already. Raises ``UnsupportedFeature``."""
        inspector = await self._connections.inspector(connection)
        return any([await inspector.pause(name) for name in lanes(queue)])

    async def resume(self, queue: str = "default", connection: str | None = None) -> bool:
        """Let them go on; false if it was not paused. Raises as ``pause`` does."""
        inspector = await self._connections.inspector(connection)
        return any([await inspector.resume(name) for name in lanes(queue)])
