"""A notification in its handler's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..context import Context
from ..outcome import ACK, DeadLetter, Outcome, Retry


class _Done:
    """What may be awaited, or not."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


@dataclass(slots=True, kw_only=True, eq=False)
class Notification:
    """One message of a channel.

    ``attempt`` counts from 1. ``published_at``: seconds since the epoch. ``pattern`` and ``group``: of the subscription.
    ``error`` and ``reason``: of a dead letter, why it is one. ``ack``, ``retry`` and ``dead_letter`` say what becomes of
    the message; the first of them counts, whatever the handler does afterwards, and they need not be awaited. Without
    any, returning acks and raising retries.
    """

    id: str
    channel: str
    payload: Any
    attempt: int = 1
    published_at: float | None = None
    pattern: str = ""
    group: str = ""
    key: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None
    reason: str = ""
    context: Context | None = None
    outcome: Outcome | None = None
    _decided: asyncio.Event = field(default_factory=asyncio.Event)

    def ack(self) -> _Done:
        """Done: forget it."""
        return self._decide(ACK)

    def retry(self, delay: float | None = None) -> _Done:
        """Once more, in ``delay`` seconds, or as the subscription says; beyond its limit a dead letter."""
        return self._decide(Retry(delay))

    def dead_letter(self, reason: str = "", error: BaseException | None = None) -> _Done:
        """Given up: keep it among the dead letters."""
        return self._decide(DeadLetter(reason, error))

    async def decided(self) -> None:
        """Wait until somebody has said what becomes of it."""
        await self._decided.wait()

    def _decide(self, outcome: Outcome) -> _Done:
        if self.outcome is None:
            self.outcome = outcome
            self._decided.set()
        return _DONE
