"""What an archive of jobs is told, by whoever publishes and whoever settles.

Only what has happened is told: a message is ``enqueued`` after the broker has it, under the id that it got; an outcome is
``settled`` after the broker has applied it under a lease that still held. So a crash in between leaves a gap in the
record, never a claim in it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from .broker import Broker, Outgoing, Settlement
from .errors import NotArchived, PublishError

JOB_ID = "jobId"  # the header that names a job where the broker's own id does not last


class Audit(Protocol):
    """The port of the archive. Telling never blocks; what is returned is to be awaited, if it is not ``None``."""

    @property
    def retention(self) -> float | None:
        """Seconds that rows are kept, ``None`` for ever."""
        ...

    def check(self) -> None:
        """Before publishing. Raises ``ConnectionFailed`` where a job without its row is not wanted and none can be had."""
        ...

    def enqueued(self, outgoings: Sequence[Outgoing], ids: Sequence[str]) -> Awaitable[None] | None:
        """The broker has them. What is returned ends when the rows are written, or raises why they are not yet."""
        ...

    def settled(self, settlements: Sequence[Settlement[Any]], *, confirmed: bool) -> Awaitable[None] | None:
        """The broker has applied these outcomes; or perhaps another owner has, if it is not ``confirmed``."""
        ...

    async def flush(self, within: float) -> bool:
        """Whether everything told so far is written ``within`` seconds from now."""
        ...

    async def prune(self) -> int:
        """Delete a bounded number of rows that are older than the retention; how many."""
        ...


class Audited:
    """``publish`` of a broker, told to an archive: one telling for each batch."""

    def __init__(self, broker: Broker[Any], audit: Audit) -> None:
        self._broker, self._audit = broker, audit
        self._stamps = not broker.capabilities.stable_ids

    async def publish(self, outgoings: Sequence[Outgoing]) -> Sequence[str]:
        """As of the broker. Raises ``PublishError`` with ``NotArchived`` for what was published and has no row yet."""
        self._audit.check()
        if self._stamps:
            outgoings = [_stamped(each) for each in outgoings]
        try:
            ids: Sequence[str | Exception] = await self._broker.publish(outgoings)
        except PublishError as error:
            fates = await self._tell(outgoings, error.results)
            raise PublishError(fates) from error
        fates = await self._tell(outgoings, ids)
        if any(isinstance(fate, Exception) for fate in fates):
            raise PublishError(fates)
        return [fate for fate in fates if isinstance(fate, str)]

    async def _tell(self, outgoings: Sequence[Outgoing], fates: Sequence[str | Exception]) -> Sequence[str | Exception]:
        there = [(each, fate) for each, fate in zip(outgoings, fates, strict=False) if isinstance(fate, str)]
        written = self._audit.enqueued([each for each, _ in there], [ident for _, ident in there]) if there else None
        if written is None:
            return fates
        try:
            await written
        except Exception as error:  # noqa: BLE001 whatever an archive may raise: the jobs are published
            return [NotArchived(fate, error) if isinstance(fate, str) else fate for fate in fates]
        return fates


def _stamped(outgoing: Outgoing) -> Outgoing:
    """With a name that lasts, if it has none yet."""
    headers = outgoing.message.headers
    if JOB_ID in headers or "jid" in headers:
        return outgoing
    message = replace(outgoing.message, headers={**headers, JOB_ID: os.urandom(16).hex()})
    return replace(outgoing, message=message)
