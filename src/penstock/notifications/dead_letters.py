"""The dead letters of all channels: looking, putting back, sweeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..broker import DeadMessage
from ..checks import at_least_one, not_negative, positive
from ..clock import Clock
from .lane import payload_of

PAGE = 500

Archive: TypeAlias = Callable[[Sequence[DeadMessage]], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """When dead letters are swept. ``max_age``: seconds since the message was published; ``max_size``: how many may stay.

    ``interval``: seconds between two sweeps. ``archive``: is given the letters before they go; if it fails they stay.
    """

    max_age: float = 7 * 86_400.0
    max_size: int = 10_000
    interval: float = 3600.0
    archive: Archive | None = None

    def __post_init__(self) -> None:
        positive("max_age, in seconds,", self.max_age)
        at_least_one("max_size", self.max_size)
        positive("interval, in seconds,", self.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterStats:
    """Dead letters by channel; ``oldest`` and ``newest``: when they died; what was swept since the start."""

    total: int
    by_channel: Mapping[str, int]
    oldest: float | None
    newest: float | None
    cleaned_up: int
    archived: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadNotification:
    """One dead letter. ``age``: seconds since it was published, or died if that is not known. ``raw``: an unreadable one."""

    id: str
    channel: str
    payload: Any
    error: str | None
    reason: str
    group: str
    attempt: int
    age: float
    died_at: float | None
    raw: bytes | None = field(default=None, repr=False)


class DeadLetters:
    """``broker`` knows bindings, and lets itself be inspected."""

    def __init__(self, broker: Any, clock: Clock) -> None:
        self._broker, self._clock = broker, clock
        self._cleaned_up = self._archived = 0

    async def requeue(self, count: int = 10) -> int:
        """Put the oldest ``count`` back into the streams they came from, as fresh messages; how many that were."""
        at_least_one("count", count)
        done, after = 0, dict[str, str]()
        while done < count and (chosen := await self._oldest(count - done, after)):
            for source, ids in chosen.items():
                done += await self._broker.requeue_dead(source, ids)  # one that cannot go back hides no other
                after[source] = ids[-1]
        return done

    async def _oldest(self, count: int, after: Mapping[str, str]) -> dict[str, list[str]]:
        """The oldest readable ones of all sources, beyond those looked at before, by source and in its order."""
        found: list[tuple[float, str, str]] = []
        for source in await self._broker.dead_sources():
            readable, age = 0, 0.0
            async for letter in self._of(source, after.get(source)):
                if letter.raw is None:
                    age = max(age, letter.died_at or 0.0)
                    found.append((age, source, letter.id))
                    readable += 1
                if readable >= count:
                    break
        found.sort(key=lambda item: item[0])  # stable: each source's stay in order
        chosen: dict[str, list[str]] = {}
        for _, source, ident in found[:count]:
            chosen.setdefault(source, []).append(ident)
        return chosen

    async def messages(
        self, *, channel: str | None = None, limit: int = 100, offset: int = 0, max_age: float | None = None
    ) -> list[DeadNotification]:
        """Some of them, oldest first."""
        found: list[DeadNotification] = []
        async for _, letter in self._all():
            note = self._note(letter)
            if channel in {None, note.channel} and (max_age is None or note.age <= max_age):
                found.append(note)
                if len(found) >= offset + limit:
                    break
        return found[offset:]

    async def stats(self) -> DeadLetterStats:
        """How many there are, of which channels, since when."""
        counts, times = Counter[str](), list[float]()
        async for _, letter in self._all():
            counts[letter.message.type] += 1
            if letter.died_at is not None:
                times.append(letter.died_at)
        return DeadLetterStats(
            total=counts.total(),
            by_channel=dict(counts),
            oldest=min(times, default=None),
            newest=max(times, default=None),
            cleaned_up=self._cleaned_up,
            archived=self._archived,
        )

    async def cleanup(self, terms: Cleanup) -> int:
        """Remove those that are too old, then the oldest beyond the size; how many that were."""
        not_negative("max_size", terms.max_size)
        kept: list[tuple[str, DeadMessage]] = []
        gone = 0
        async for source, letter in self._all():
            if self._note(letter).age > terms.max_age:
                gone += await self._remove(source, [letter], terms.archive)
            else:
                kept.append((source, letter))
        excess = sorted(kept, key=lambda item: item[1].died_at or 0.0)[: max(len(kept) - terms.max_size, 0)]
        for source, letter in excess:
            gone += await self._remove(source, [letter], terms.archive)
        return gone

    async def clear(self) -> int:
        """Remove all; how many that were."""
        gone = 0
        for source in await self._broker.dead_sources():
            while page := await self._broker.dead(source, PAGE):
                gone += await self._broker.purge_dead(source, [each.id for each in page])
        return gone

    async def _remove(self, source: str, letters: Sequence[DeadMessage], archive: Archive | None) -> int:
        if archive is not None:
            await archive(letters)
            self._archived += len(letters)
        gone: int = await self._broker.purge_dead(source, [each.id for each in letters])
        self._cleaned_up += gone
        return gone

    async def _all(self) -> AsyncIterator[tuple[str, DeadMessage]]:
        for source in await self._broker.dead_sources():
            async for letter in self._of(source):
                yield source, letter

    async def _of(self, source: str, after: str | None = None) -> AsyncIterator[DeadMessage]:
        while page := await self._broker.dead(source, PAGE, after=after):
            for letter in page:
                yield letter
            after = page[-1].id

    def _note(self, letter: DeadMessage) -> DeadNotification:
        message = letter.message
        since = message.enqueued_at if message.enqueued_at is not None else letter.died_at
        return DeadNotification(
            id=letter.id,
            channel=message.type,
            payload=payload_of(message.body),
            error=letter.error,
            reason=letter.reason,
            group=letter.group,
            attempt=message.attempt + 1,
            age=0.0 if since is None else max(self._clock.time() - since, 0.0),
            died_at=letter.died_at,
            raw=letter.raw,
        )
