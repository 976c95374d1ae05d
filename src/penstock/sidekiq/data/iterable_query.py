"""How far iterable jobs have come."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from .data import Data


class IterableState(msgspec.Struct, frozen=True, kw_only=True):
    """One job's. ``runtime``: seconds in all its ``executions``. ``cursor``: where it will go on."""

    executions: int
    runtime: float
    cursor: Any
    cancelled_at: datetime | None

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked it to end."""
        return self.cancelled_at is not None


class IterableJobQuery:
    """The states of several jobs, read at once with ``load``; ``query[jid]`` is a job's, or ``None``."""

    def __init__(self, data: Data, jids: Iterable[str | None]) -> None:
        self._data = data
        self.jids = tuple(dict.fromkeys(jid for jid in jids if jid))
        self._states: dict[str, IterableState] = {}

    async def load(self) -> IterableJobQuery:
        """Read the states as they are now; itself."""
        found = await self._data.many([("HGETALL", f"it-{jid}") for jid in self.jids])
        self._states = {
            jid: _state(dict(zip(facts[::2], facts[1::2], strict=True)))
            for jid, facts in zip(self.jids, found, strict=True)
            if facts
        }
        return self

    def __getitem__(self, jid: str | None) -> IterableState | None:
        return self._states.get(jid or "")

    def __len__(self) -> int:
        return len(self._states)


def _state(facts: dict[bytes, bytes]) -> IterableState:
    cancelled = facts.get(b"cancelled")
    return IterableState(
        executions=int(facts.get(b"ex", 0)),
        runtime=float(facts.get(b"rt", 0)),
        cursor=_cursor(facts.get(b"c")),
        cancelled_at=None if not cancelled else datetime.fromtimestamp(float(cancelled), UTC),
    )


def _cursor(text: bytes | None) -> Any:
    """A cursor; as it stands there if it is not JSON."""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace")
