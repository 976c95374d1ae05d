"""One reader of one set of queues: takes jobs into lists of its own, waits for them, and takes over what others left.

1. A job is taken by one script, from the right of its queue into ``pq:inflight:owner|reader|queue``: it is never in our
   hands only. Whoever settles it must still find it there.
2. While there is nothing, each queue has a connection that blocks in ``BLMOVE q q RIGHT RIGHT``: it changes nothing, and
   answers when there is something. Many queues are looked into every now and then instead.
3. A call that was cut off may have taken jobs that nobody saw, at once or when the network comes back. What is in our
   lists and not in our hands is handed out: looked for after each such call, and every now and then.
4. What nobody has renewed for a whole lease is put aside then, to lapse: others keep the lease of its list alive.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ...clients.redis import DedicatedConnection, RedisClient, ReplyError
from ...clock import Clock
from ...errors import BrokerError
from ...message import Delivery, Message, Predecessor
from . import keys
from .holdings import Holdings, put_aside
from .options import Receipt
from .scripts import RECLAIM, STRAYS, TAKE
from .wire import Malformed, jid_of, message_of

PEEKED = 8  # queues that have a waiting connection each; more are looked into every now and then
LOOK, LOOK_LONGEST = 0.02, 0.5  # seconds between two such looks: they double while nothing comes
SLICE = 2.0  # seconds of one blocking wait
DOUBT = 15.0  # seconds during which a call that was cut off might still take something


class Reader:
    """Takes for one subscription. ``queues`` of each call: those of the subscription, in the order of this time."""

    def __init__(self, client: RedisClient, holdings: Holdings, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self.holdings = holdings
        self._taking = asyncio.Lock()
        self._peeks: dict[str, tuple[DedicatedConnection, asyncio.Task[Any]]] = {}
        self._connections: dict[str, DedicatedConnection] = {}
        self._known: set[str] = set()
        self._doubt_until = self._look_at = float("-inf")
        self.closing = False

    async def fetch(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery[Receipt]]:
        if limit <= 0:
            return []
        clock, until, pause = self._clock, self._clock.monotonic() + wait, LOOK
        while not self.closing:
            found = await self._take(queues, limit)
            left = until - clock.monotonic()
            if found or left <= 0:
                return found
            if len(queues) > PEEKED:
                await clock.sleep(min(pause, left))
                pause = min(pause * 2, LOOK_LONGEST)
            else:
                await self._await_any(queues, min(left, SLICE))
        return []

    async def reclaim(
        self, queues: Sequence[str], limit: int, above: int, below: int | None, grace: float
    ) -> list[Delivery[Receipt]]:
        """Take over what lapsed."""
        holdings = self.holdings
        bounds = ("" if above <= 0 else above, "" if below is None else below, int(grace * 1000))
        async with self._taking:
            self._known.update(queues)
            start = self._clock.monotonic()
            args = [limit, holdings.lease, holdings.name, *bounds, holdings.shelf, *queues]
            taken, shelved = await self._run(RECLAIM, args)
            for receipt in list(holdings.held.values()) if shelved else ():
                receipt.shelved = receipt.shelved or receipt.queue.encode() in shelved
            found: list[Delivery[Receipt]] = []
            for queue, raw, handed, owner, silent, like in taken:
                fresh = {delivery.message.id for delivery in found}
                delivery = self._delivery(
                    queue.decode(), raw, handed + 1, start, self._stale(queue.decode(), raw, like, fresh)
                )
                past = Predecessor(owner.decode("utf-8", "backslashreplace"), silent / 1000)
                found.append(replace(delivery, predecessor=past))
            return found

    async def close(self) -> None:
        """Wait for nothing any more and disconnect."""
        self.closing = True
        peeks, self._peeks = list(self._peeks.values()), {}
        for _, task in peeks:
            task.cancel()
        await asyncio.gather(*(task for _, task in peeks), return_exceptions=True)
        for connection in self._connections.values():
            await connection.close()

    @property
    def members(self) -> list[str]:
        """The names of all lists that this reader may have."""
        holdings = self.holdings
        return [prefix + queue for prefix in (holdings.name, holdings.shelf) for queue in sorted(self._known)]

    # -------------------------------------------------------------------------------------------------------- taking

    async def _take(self, queues: Sequence[str], limit: int) -> list[Delivery[Receipt]]:
        holdings = self.holdings
        async with self._taking:
            self._known.update(queues)
            start = self._clock.monotonic()
            if start < self._doubt_until or start >= self._look_at:
                await put_aside(self._client, holdings, start)
                strays = await self._strays(limit, start)
                if len(strays) < limit:  # else there may be more
                    self._look_at = start + holdings.subscription.lease / 2
                if strays:
                    return strays
            reply = await self._run(TAKE, [limit, holdings.lease, holdings.name, *queues])
            found: list[Delivery[Receipt]] = []
            for name, jobs, counts in reply:
                queue = name.decode()
                if counts:
                    found += [self._delivery(queue, raw, n + 1, start) for raw, n in zip(jobs, counts, strict=True)]
                else:
                    found += [self._delivery(queue, raw, 1, start) for raw in jobs]
            return found

    async def _run(self, script: Any, args: list[Any]) -> Any:
        try:
            return await self._client.run(script, (), args)
        except BaseException:
            self._doubt_until = self._clock.monotonic() + DOUBT
            raise

    async def _strays(self, limit: int, start: float) -> list[Delivery[Receipt]]:
        """Jobs in our lists that a call took whose answer was lost."""
        holdings, found = self.holdings, list[Delivery[Receipt]]()
        # As it is now: what is settled while we ask is no stray
        ours = Counter((r.queue, r.raw) for r in list(holdings.held.values()) if not r.shelved)
        reply = await self._client.run(STRAYS, (), [holdings.lease, holdings.name, *sorted(self._known)])
        for name, jobs, counts in reply:
            queue = name.decode()
            for raw, count in zip(jobs, counts, strict=True):
                if ours[queue, raw]:
                    ours[queue, raw] -= 1
                elif len(found) < limit:
                    found.append(self._delivery(queue, raw, count + 1, start))
        return found

    def _delivery(self, queue: str, raw: bytes, count: int, start: float, name: str | None = None) -> Delivery[Receipt]:
        """A job in our hands, as ``name`` if it is one that we know already."""
        defect: str | None = None
        try:
            message = message_of(raw)
        except Malformed as wrong:
            defect, message = str(wrong), Message(id=jid_of(None, raw), type="", body=raw)
        held = self.holdings.held
        ident = name or self._free_name(message.id)
        if ident != message.id:
            message = replace(message, id=ident)
        receipt = held[ident] = Receipt(raw, queue, start)
        return Delivery(
            message=message,
            source=queue,
            group=self.holdings.subscription.group,
            receipt=receipt,
            count=count,
            defect=defect,
        )

    def _free_name(self, ident: str) -> str:
        """A name for a job, which another one in our hands may have: duplicates with one jid are jobs of their own."""
        held, name, number = self.holdings.held, ident, 1
        while name in held:
            number += 1
            name = f"{ident}#{number}"
        return name

    def _stale(self, queue: str, raw: bytes, like: int, fresh: set[str]) -> str | None:
        """The name under which we had a job that was taken over by us now, if it is that very job.

        It is, if there are more equal ones in our hands than ``like`` it are in our lists besides.
        """
        held = list(self.holdings.held.items())
        names = [name for name, receipt in held if receipt.raw == raw and receipt.queue == queue]
        known = [name for name in names if name not in fresh]
        return known[0] if known and len(names) > like else None

    # ------------------------------------------------------------------------------------------------------- waiting

    async def _await_any(self, queues: Sequence[str], wait: float) -> None:
        """Return when one of the queues has something, or after ``wait`` seconds."""
        tasks: list[asyncio.Task[Any]] = []
        for queue in queues:
            if queue not in self._peeks:
                connection = self._connections.setdefault(queue, self._client.dedicated())
                self._peeks[queue] = connection, asyncio.create_task(self._peek(connection, queue, wait))
            tasks.append(self._peeks[queue][1])
        done, _ = await asyncio.wait(tasks, timeout=wait + 1.0, return_when=asyncio.FIRST_COMPLETED)
        for queue in queues:
            if self._peeks[queue][1] in done:
                del self._peeks[queue]
        for task in done:
            if (error := task.exception()) is not None:
                raise error

    async def _peek(self, connection: DedicatedConnection, queue: str, wait: float) -> None:
        key = keys.queue(queue)
        try:
            await connection.call("BLMOVE", key, key, "RIGHT", "RIGHT", f"{max(wait, 0.001):.3f}", wait=wait)
        except ReplyError as refused:
            if refused.code != "OOM":
                raise
            await self._clock.sleep(min(wait, LOOK_LONGEST))  # a server out of memory lets nobody wait, but look


async def give_back(client: RedisClient, script: Any, members: Sequence[str]) -> None:
    """Put what is in these lists back into its queues."""
    if members:
        try:
            await client.run(script, (), list(members))
        except BrokerError:
            return  # what cannot be given back lapses with its lease
