"""The verbs that look at streams and mend them, as a broker has them: what blocks runs on a thread."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from ...broker import DeadMessage, Finding, Outgoing, StreamStats, Subscription
from ...clock import Clock
from ...message import Message
from .inspection import Inspection
from .librdkafka import raised
from .options import topic_of
from .producing import Writing

T = TypeVar("T")


class Inspecting:
    """The half of ``KafkaBroker`` that no worker needs."""

    _look: Inspection
    _clock: Clock

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]: ...

    @abstractmethod
    async def _write(self, records: Sequence[Writing]) -> list[Any]: ...

    @abstractmethod
    def _ours(self, topic: str) -> set[tuple[str, tuple[str, int]]]: ...

    @abstractmethod
    async def _forget_waiting(self, topic: str) -> None: ...

    @abstractmethod
    async def _blocking(self, call: Callable[[], T]) -> T: ...

    @abstractmethod
    async def _sheltered(self, work: Coroutine[Any, Any, T]) -> T: ...

    async def trim(self, subscription: Subscription) -> int:
        return await self._blocking(partial(self._look.trim, subscription))

    async def sources(self) -> Sequence[str]:
        return await self._blocking(self._look.sources)

    async def stats(self, source: str) -> StreamStats:
        return await self._blocking(partial(self._look.stats, source, self._clock.time()))

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        return await self._blocking(partial(self._look.peek, source, limit))

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        return await self._blocking(partial(self._look.dead, source, limit, after))

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        return await self._sheltered(self._bury(source, ids, again=True))

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        return await self._sheltered(self._bury(source, ids, again=False))

    async def _bury(self, source: str, ids: Sequence[str], *, again: bool) -> int:
        """Take letters away; before that, if wanted, publish them afresh."""
        found = await self._blocking(partial(self._look.letters, source, set(ids)))
        if again:
            found = {name: each for name, each in found.items() if each.raw is None}
            await self.publish([Outgoing(destination=source, message=m) for m in self._look.fresh(found.values())])
        for fate in await self._write(self._look.gone(source, list(found))):
            if fate is not None:
                raise raised(self.url, fate)
        return len(found)

    async def purge(self, source: str) -> int:
        count = await self._blocking(partial(self._look.purge, source, self._ours(topic_of(source))))
        await self._forget_waiting(topic_of(source))
        return count

    async def diagnose(self) -> Sequence[Finding]:
        return await self._blocking(self._look.diagnose)
