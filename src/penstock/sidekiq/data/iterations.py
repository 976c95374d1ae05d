"""How far iterable jobs have come, for many at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from .data import Data


@dataclass(frozen=True, slots=True)
class IterableState:
    """``executions``: how often it began; ``runtime``: seconds in all; ``cancelled``: when it was, seconds since the epoch.

    ``cursor``: where it goes on; the text of it, if it is no JSON.
    """

    executions: int
    runtime: float
    cursor: Any
    cancelled: float | None


class IterableJobQuery:
    """``(await IterableJobQuery.of(data, jids))[jid]``: the state of a job, ``None`` of one that has none."""

    def __init__(self, states: dict[str, IterableState]) -> None:
        self._states = states

    @classmethod
    async def of(cls, data: Data, jids: Iterable[str]) -> IterableJobQuery:
        """Ask for all of them in one go."""
        unique = list(dict.fromkeys(jids))
        replies = await data.many([("HMGET", f"it-{jid}", "ex", "rt", "c", "cancelled") for jid in unique])
        return cls({jid: _state(reply) for jid, reply in zip(unique, replies, strict=True) if any(reply)})

    def __getitem__(self, jid: str) -> IterableState | None:
        return self._states.get(jid)


def _state(reply: list[bytes | None]) -> IterableState:
    executions, runtime, cursor, cancelled = reply
    return IterableState(
        executions=int(executions or 0),
        runtime=float(runtime or 0),
        cursor=_cursor(cursor),
        cancelled=None if cancelled is None else float(cancelled),
    )


def _cursor(raw: bytes | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except ValueError:
        return raw.decode("utf-8", "replace") if raw is not None else None
