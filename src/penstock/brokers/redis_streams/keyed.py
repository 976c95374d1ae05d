"""The reader of a keyed subscription: of the messages of one key one at a time is handed out, whoever asks.

1. What may be handed out is decided on the server, in the step that takes it (``take.lua``): a message whose key is held
   is parked, and stays pending in the group; who settles the holder for good passes the turn on.
2. Nobody waits inside a script. While there is nothing to take, a *bell* waits: a blocking read of one entry in the name
   of the pseudo owner ``arriving``. What it read belongs to nobody; the next ``take``, of whichever owner, begins with it.
   So order and leases do not depend on who waited, and a bell that is cut off has taken nothing from anybody.
3. A settlement of this process that passed a turn on wakes it at once; other processes look about once a second.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ...clients.redis import ReplyError
from ...errors import ConnectionFailed
from ...message import Delivery
from .options import ARRIVING, Receipt
from .reading import GONE, GroupReader
from .scripts import TAKE

LOOKED_AT = 1000  # entries that one script looks at, most of which may have to be parked


class KeyedReader(GroupReader):
    """Reads for one keyed subscription."""

    keyed = True
    _bell: asyncio.Task[Any] | None = None
    _nudge: asyncio.Event | None = None

    def look_soon(self, ghosts: int = 0) -> None:
        super().look_soon(ghosts)
        if self._nudge is not None:
            self._nudge.set()

    async def fetch(self, limit: int, wait: float) -> list[Delivery[Receipt]]:
        clock = self._clock
        async with self._reading:
            until = clock.monotonic() + wait
            if not self._made:
                await self._make_group()
            while limit > 0 and not self.closing:
                nudge = self._nudge = asyncio.Event()
                found, more = await self._take(limit)
                left = until - clock.monotonic()
                if found or (left <= 0 and not more):
                    return found
                if not more:
                    await self._wait(nudge, left)
            return []

    async def _take(self, limit: int) -> tuple[list[Delivery[Receipt]], bool]:
        """What may be handed out, and whether there was more to look at."""
        now = self._clock.monotonic()
        if self._recoveries and now >= self._look_at:
            await self._recover()
            self._recoveries -= 1
            self._look_at = now + self._options.look_around
        source, group = self._names
        try:
            entries, ghosts, more = await self._client.run(
                TAKE, [source, *self.membership.turns], [group, self._owner, limit, LOOKED_AT]
            )
        except ReplyError as error:
            if error.code not in GONE:
                raise
            await self._make_group()
            return [], True
        except (ConnectionFailed, asyncio.CancelledError):
            self._recover_soon()
            raise
        self.ghosts += ghosts
        return await self._deliver(entries, now) if entries else [], bool(more)

    async def _wait(self, nudge: asyncio.Event, seconds: float) -> None:
        """Until something arrives, something may be taken, or it is time to look around."""
        seconds = min(seconds, self._options.look_around)
        bell = self._bell
        if bell is None or bell.done():
            bell = self._bell = asyncio.create_task(self._ring(seconds))
            bell.add_done_callback(_heard)
        nudged = asyncio.create_task(nudge.wait())
        try:
            await asyncio.wait((bell, nudged), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nudged.cancel()
        if bell.done() and not bell.cancelled():
            bell.result()

    async def _ring(self, seconds: float) -> None:
        source, group = self._names
        block = max(int(seconds * 1000), 1)
        read = ("XREADGROUP", "GROUP", group, ARRIVING, "COUNT", 1, "BLOCK", block, "STREAMS", source, ">")
        try:
            await self._connection.call(*read, wait=seconds)
        except ReplyError as error:
            if error.code not in GONE:  # else the next look makes the group anew
                raise

    async def leave(self) -> None:
        self.closing = True
        await self._hush()
        await super().leave()

    async def close(self) -> None:
        await self._hush()
        await super().close()

    async def _hush(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.cancel()
            await asyncio.wait((bell,))


def _heard(bell: asyncio.Task[Any]) -> None:
    """An error of a bell that nobody waits for any more is no news: the next look meets it again."""
    if not bell.cancelled():
        bell.exception()
