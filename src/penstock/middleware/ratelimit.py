"""Rate limits by key: so many executions for each customer, tenant or address in a window, over all workers.

A message whose key has nothing left is handed back, uncounted, until there may be more. It is one of many in its queue,
so the others go on; a limit of the whole queue is better kept before anything is fetched (``Options.rates``). While the
store cannot be reached nothing with a key runs, and none of it counts as an attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import ConnectionFailed
from ..message import Envelope
from ..outcome import Outcome, Release
from ..rate import Rate
from ..store import SupportsBudgets

logger = logging.getLogger("penstock")

OUTAGE_PAUSE = 1.0  # seconds until a message is tried again whose budget could not be looked up


class RateLimit:
    """Consumer middleware. ``key``: says whose budget a message is charged to, by default its own key; ``None`` is nobody's.

    ``name``: distinguishes budgets of different consumers; by default the stream's name.
    """

    def __init__(
        self,
        store: SupportsBudgets,
        rate: Rate,
        *,
        key: Callable[[Envelope[Any]], str | None] | None = None,
        name: str | None = None,
    ) -> None:
        self._store, self._rate, self._key, self._name = store, rate, key or _own_key, name

    async def __call__(
        self, envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Awaitable[Outcome]]
    ) -> Outcome:
        """See the module."""
        key = self._key(envelope)
        if key is None:
            return await call_next(envelope)
        name = f"{self._name or envelope.context.stream}:{key}"
        try:
            grant = await self._store.spend(name, self._rate.limit, self._rate.window, 1)
        except ConnectionFailed as error:
            logger.warning("handed back, its rate cannot be looked up: %s", error, extra=envelope.context.fields())
            return Release(OUTAGE_PAUSE)
        return await call_next(envelope) if grant.count else Release(grant.retry_after)


def _own_key(envelope: Envelope[Any]) -> str | None:
    return envelope.context.key
