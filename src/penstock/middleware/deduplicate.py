"""Consumer idempotency: run the handler once for each key, within a window.

1. A message without a key runs as ever.
2. The key is reserved, by this very message. Done already: the message is acked without running. Reserved by another
   message that is running: this one is handed back, and looks again a little later.
3. The handler runs; a long one has its reservation renewed.
4. Done when it acks, before the broker hears of it: after a crash in between the message comes back and is acked by 2.
   Anything else forgets the reservation, so that the next attempt runs.

The effect itself happens once unless a worker dies between the effect and step 4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock
from ..context import Context
from ..errors import BrokerError, ConfigurationError
from ..message import Envelope
from ..outcome import ACK, Ack, Outcome, Release
from ..store import Claim, Store

logger = logging.getLogger("penstock")

SCOPED = "consumed:{stream}:{group}:{key}"
GLIDE_KIT = "consumed:{stream}:{key}"


def _own_key(context: Context) -> str | None:
    return context.key


class Deduplicate:
    """Consumer middleware over a ``Store``.

    ``pending``: seconds a reservation lasts without being renewed, i.e. how long a dead worker blocks another message
    with the same key. ``done``: seconds for which a key is remembered. ``pause``: seconds until a message whose key is
    reserved looks again. ``template``: how a key is named, of ``stream``, ``group`` and ``key``. ``key``: what a message
    is known by, by default its own key; ``None`` runs it as ever.

    ``GLIDE_KIT`` shares keys with that library's consumers: not scoped by group, and reserved in the name of the worker
    instead of the message. A worker that dies then blocks its own message too, for ``pending`` seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        pending: float = 300.0,
        done: float = 86_400.0,
        pause: float = 0.5,
        template: str = SCOPED,
        key: Callable[[Context], str | None] = _own_key,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if pending <= 0 or done <= 0:
            raise ConfigurationError(f"pending and done are in seconds and more than 0, got {pending} and {done}")
        self._store, self._clock = store, clock
        self._key = key
        self._here: dict[str, str] = {}  # keys that run in this process, and for which message
        self._pending, self._done, self._pause, self._template = pending, done, pause, template

    async def __call__(
        self, envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Awaitable[Outcome]]
    ) -> Outcome:
        """See the module."""
        context = envelope.context
        key = self.name_of(envelope)
        if key is None:
            return await call_next(envelope)
        if self._here.setdefault(key, context.id) != context.id:
            return Release(self._pause)
        try:
            return await self._once(key, envelope, call_next)
        finally:
            self._here.pop(key, None)

    def name_of(self, envelope: Envelope[Any]) -> str | None:
        """The name in the store by which this message is known; ``None``: it runs as ever."""
        context = envelope.context
        key = self._key(context)
        return None if key is None else self._template.format(stream=context.stream, group=context.group, key=key)

    def window(self, envelope: Envelope[Any]) -> float:
        """Seconds for which it is remembered when it is done."""
        return self._done

    async def _once(
        self, key: str, envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Awaitable[Outcome]]
    ) -> Outcome:
        context = envelope.context
        owner = context.worker if self._template == GLIDE_KIT else context.id
        claim = await self._store.reserve(key, owner, self._pending)
        if claim is Claim.DONE:
            logger.info("acked without running: its key is done", extra={**context.fields(), "key": key})
            return ACK
        if claim is Claim.HELD:
            return Release(self._pause)
        renewing = asyncio.create_task(self._renew(key, owner))
        try:
            outcome = await call_next(envelope)
        except BaseException:
            await self._forget(key, owner)
            raise
        finally:
            renewing.cancel()
        if isinstance(outcome, Ack):
            await self._store.complete(key, owner, self.window(envelope))
        else:
            await self._forget(key, owner)
        return outcome

    async def _renew(self, key: str, owner: str) -> None:
        while True:
            await self._clock.sleep(self._pending / 3)
            try:
                await self._store.renew(key, owner, self._pending)
            except BrokerError as error:
                logger.warning("a reservation was not renewed: %s", error)

    async def _forget(self, key: str, owner: str) -> None:
        """Best effort: a reservation that stays only delays the next attempt's rivals, never the attempt itself."""
        try:
            await self._store.release(key, owner)
        except BrokerError as error:
            logger.warning("a reservation was not released: %s", error)
