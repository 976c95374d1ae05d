"""The inspector: the only way to look at streams and dead letters and to mend them.

The command line uses nothing else. It works on every broker that lets itself be inspected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

from .broker import (
    Broker,
    DeadMessage,
    Finding,
    Presence,
    StreamStats,
    SupportsDiagnosis,
    SupportsInspect,
    SupportsPause,
    SupportsPresence,
)
from .errors import UnsupportedFeature
from .message import Message

PAGE = 500


class Inspector:
    """Reads and administers what one broker holds.

    As a context manager it uses connections of its own and closes them, so that ``broker`` may serve a worker
    meanwhile; without one it borrows ``broker``'s, which must be open. Raises ``UnsupportedFeature`` if the broker
    cannot be inspected.
    """

    def __init__(self, broker: Broker[Any]) -> None:
        if not isinstance(broker, SupportsInspect):
            raise UnsupportedFeature(f"{broker.url} cannot be inspected")
        self._given: Any = broker
        self._broker: Broker[Any] = broker
        self._admin: SupportsInspect = broker

    async def __aenter__(self) -> Self:
        fork: Any = self._given.fork()
        await fork.open()
        self._broker = self._admin = fork
        return self

    async def __aexit__(self, *_: object) -> None:
        own, self._broker = self._broker, self._given
        self._admin = self._given
        await own.close()

    async def sources(self) -> Sequence[str]:
        """The streams there are."""
        return await self._admin.sources()

    async def stats(self, *sources: str) -> list[StreamStats]:
        """Sizes of the streams named, or of all."""
        return [await self._admin.stats(source) for source in sources or await self.sources()]

    async def peek(self, source: str, limit: int = 10) -> Sequence[Message]:
        """The oldest messages of a stream."""
        return await self._admin.peek(source, limit)

    async def dead(self, source: str, limit: int = 10, *, after: str | None = None) -> Sequence[DeadMessage]:
        """Dead letters, oldest first."""
        return await self._admin.dead(source, limit, after=after)

    async def each_dead(
        self, source: str, keep: Callable[[DeadMessage], bool] = lambda _: True
    ) -> AsyncIterator[DeadMessage]:
        """Every dead letter that ``keep`` wants, oldest first, page by page."""
        after: str | None = None
        while page := await self._admin.dead(source, PAGE, after=after):
            for letter in page:
                if keep(letter):
                    yield letter
            after = page[-1].id

    async def requeue(self, source: str, ids: Sequence[str]) -> int:
        """Put dead letters back as fresh messages; how many were still there."""
        return await self._in_pages(self._admin.requeue_dead, source, ids)

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        """Delete dead letters for good; how many were still there."""
        return await self._in_pages(self._admin.purge_dead, source, ids)

    async def purge(self, source: str) -> int:
        """Delete everything that waits in a stream, now or later; how many."""
        return await self._admin.purge(source)

    async def processes(self) -> Sequence[Presence]:
        """The workers alive, where the broker keeps a list."""
        return await self._broker.processes() if isinstance(self._broker, SupportsPresence) else ()

    async def pause(self, source: str) -> bool:
        """Have every worker fetch no more from a stream; false if it was paused already."""
        return await self._pausing().pause(source)

    async def resume(self, source: str) -> bool:
        """Have them go on; false if it was not paused."""
        return await self._pausing().resume(source)

    async def paused(self) -> frozenset[str]:
        """The streams that are paused, where the broker keeps a list."""
        return await self._broker.paused() if isinstance(self._broker, SupportsPause) else frozenset()

    def _pausing(self) -> SupportsPause:
        if not isinstance(self._broker, SupportsPause):
            raise UnsupportedFeature(f"{self._broker.url} cannot pause streams; use Worker.pause() in each process")
        return self._broker

    async def diagnose(self) -> Sequence[Finding]:
        """What is unsafe about the server's settings, where the broker can tell."""
        return await self._broker.diagnose() if isinstance(self._broker, SupportsDiagnosis) else ()

    @staticmethod
    async def _in_pages(call: Callable[[str, Sequence[str]], Any], source: str, ids: Sequence[str]) -> int:
        return sum([await call(source, ids[start : start + PAGE]) for start in range(0, len(ids), PAGE)])
