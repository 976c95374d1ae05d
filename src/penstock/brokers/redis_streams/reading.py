"""One group of one stream, read by one owner: new entries, those handed back, those whose lease lapsed.

1. New entries come by XREADGROUP on a connection of their own, blocking in slices.
2. What was handed back (the pseudo owner ``released``) is looked for before the first read, after each read that
   brought nothing, and once per slice: the fast path pays nothing for it.
3. A read or claim that was cut off may have taken entries that nobody saw. Its connection is told to stop waiting, and
   what the server says is ours but we do not hold is handed back, uncounted.
4. A group that is missing is made: at first where the subscription wants it, later at the beginning, since nobody has
   seen what is there now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from ...broker import Subscription
from ...clients.redis import RedisClient, ReplyError, code_of
from ...clock import Clock
from ...errors import BrokerError, ConfigurationError, ConnectionFailed
from ...message import Delivery, Message, Predecessor
from .options import PSEUDO, RELEASED, Keys, Receipt, RedisStreamsOptions
from .scripts import CLAIM, EXTEND, JOIN, RELEASE, SETTLE
from .wire import HEADERS, PAYLOAD, Unreadable, pick, plain_message, read_entry

RECOVERIES = 2  # a read cut off before the server saw it may still take something after the first
GONE = frozenset({"NOGROUP", "UNBLOCKED"})
PAGE = 1000
NEVER = 10**15  # in ms: the year 33658


class Membership:
    """What this owner holds in one group: shared by a broker and its forks."""

    __slots__ = ("_ahead", "_keys", "held", "subscription")

    def __init__(self, subscription: Subscription, keys: Keys) -> None:
        self.subscription, self._keys = subscription, keys
        self.held: dict[str, Receipt] = {}
        self._ahead: float | None = None

    def heard(self, server_ms: bytes, now: float) -> None:
        """The server's clock, as it was when an answer that came by ``now`` was made."""
        self._ahead = int(server_ms) / 1000 - now

    def by_server(self, deadline: float) -> int:
        """A moment of our monotonic clock as milliseconds of the server's, rather too early; 0 if that is not known."""
        return 0 if self._ahead is None else max(int((deadline + self._ahead) * 1000), 0)

    @property
    def keys(self) -> list[str]:
        """What an outcome may touch: the stream, the set of what is delayed, the dead letters."""
        source, delayed = self.subscription.source, self.subscription.delayed
        return [source, delayed or self._keys.delayed(source), self._keys.dead(source), *self.turns]

    @property
    def turns(self) -> list[str]:
        """What is kept about the turns of keys, if the subscription is keyed."""
        subscription = self.subscription
        return self._keys.turns(subscription.source, subscription.group) if subscription.keyed else []

    def deadline(self, start: float, lease: float) -> float:
        """Until when a lease renewed after ``start`` is surely ours. Leaves time for a call to reach the server."""
        lease = min(lease, self.subscription.lease)
        return start + lease - min(1.0, lease / 10)


class GroupReader:
    """Reads for one subscription."""

    keyed = False

    def __init__(
        self, client: RedisClient, owner: str, membership: Membership, options: RedisStreamsOptions, clock: Clock
    ) -> None:
        self._client, self._owner, self._options, self._clock = client, owner, options, clock
        self.membership = membership
        self._connection = client.dedicated()
        self._reading, self._claiming = asyncio.Lock(), asyncio.Lock()
        self._made = self.closing = False
        self._look_at = float("-inf")
        self._born = clock.monotonic()
        self._recoveries = self.ghosts = 0
        self._plain = True  # the last message had no headers of its own, so try the fast way first
        self._cut_off: list[object] = []

    @property
    def _names(self) -> tuple[str, str]:
        return self.membership.subscription.source, self.membership.subscription.group

    def look_soon(self, ghosts: int = 0) -> None:
        """Something was handed back: look for it before the next read."""
        self._look_at = float("-inf")
        self.ghosts += ghosts

    async def fetch(self, limit: int, wait: float) -> list[Delivery[Receipt]]:
        clock, slice_ = self._clock, self._options.look_around
        async with self._reading:
            now = clock.monotonic()
            until, found = now + wait, list[Delivery[Receipt]]()
            if not self._made:
                await self._make_group()
            if limit <= 0:
                return []
            if now >= self._look_at:
                found = await self._look(limit)
            while not found and not self.closing:
                left = until - clock.monotonic()
                found = await self._read(limit, min(max(left, 0.0), slice_))
                if not found and not self.closing:
                    found = await self._look(limit)
                if left <= 0:
                    break
            return found

    async def reclaim(self, limit: int, above: int, below: int | None) -> list[Delivery[Receipt]]:
        """Take over what lapsed."""
        if not self._made:
            await self._make_group()
        lease = max(int(self.membership.subscription.lease * 1000), 1)
        async with self._claiming:
            return await self._claim(lease, limit, "" if above <= 0 else above, "" if below is None else below, "")

    async def leave(self) -> None:
        """Stop reading, hand back everything this owner holds, leave the group."""
        self.closing = True
        if self._connection.id is not None:
            self._cut_off.append(self._connection.id)
        await self._unblock()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._options.look_around):
                await self._reading.acquire()
                self._reading.release()
        await self._connection.close()
        source, group = self._names
        with suppress(ReplyError):  # the group is gone, and with it all that there was to give back
            await self._client.run(RELEASE, [source], [group, self._owner, 1, self._lived()])
        self.membership.held.clear()

    async def close(self) -> None:
        """Disconnect."""
        self.closing = True
        await self._connection.close()

    # ------------------------------------------------------------------------------------------------------- reading

    async def _read(self, limit: int, wait: float) -> list[Delivery[Receipt]]:
        start = self._clock.monotonic()
        reply = await self._read_group((self._names[0],), limit, wait)
        return await self._deliver(reply[0][1], start) if reply else []

    async def _read_group(self, streams: Sequence[str], limit: int, wait: float) -> Sequence[Any]:
        """New entries of these streams, of each of them up to ``limit``."""
        block = ("BLOCK", max(int(wait * 1000), 1)) if wait > 0 else ()
        command = ("XREADGROUP", "GROUP", self._names[1], self._owner, "COUNT", limit, *block, "STREAMS", *streams)
        try:
            reply = await self._connection.call(*command, *(">" for _ in streams), wait=wait)
        except ReplyError as error:
            if error.code not in GONE:
                raise
            await self._make_group()
            return ()
        except (ConnectionFailed, asyncio.CancelledError):
            self._recover_soon()
            if self._connection.id is not None:
                self._cut_off.append(self._connection.id)
            raise
        return () if not reply or self.closing else reply

    async def _look(self, limit: int) -> list[Delivery[Receipt]]:
        """Take what was handed back; before that, hand back what a read that was cut off took."""
        if self._recoveries:
            await self._recover()
            self._recoveries -= 1
        self._look_at = self._clock.monotonic() + self._options.look_around
        return await self._claim(0, limit, "", "", RELEASED)

    async def _claim(self, idle: int, limit: int, *filters: str | int) -> list[Delivery[Receipt]]:
        source, group = self._names
        start = self._clock.monotonic()
        try:
            entries, ghosts = await self._client.run(
                CLAIM, [source, *self.membership.turns], [group, self._owner, idle, limit, *filters]
            )
        except ReplyError as error:
            if error.code not in GONE:
                raise
            await self._make_group()
            return []
        except (ConnectionFailed, asyncio.CancelledError):
            self._recover_soon()
            raise
        self.ghosts += ghosts
        return await self._deliver(entries, start) if entries else []

    def _recover_soon(self) -> None:
        """Something may have been taken that nobody saw: before the next read, hand it back."""
        self._recoveries, self._look_at = RECOVERIES, float("-inf")

    async def _recover(self) -> None:
        source, group = self._names
        held, start, orphans = self.membership.held, "-", list[str]()
        async with self._claiming:
            await self._unblock()
            with suppress(ReplyError):
                while page := await self._client.call("XPENDING", source, group, start, "+", PAGE, self._owner):
                    orphans += [ident for item in page if (ident := item[0].decode()) not in held]
                    start = "(" + page[-1][0].decode()
                if orphans:
                    await self._hand_back(orphans)

    async def _hand_back(self, ids: Sequence[str]) -> None:
        """Give back what nobody here holds, uncounted."""
        source, group = self._names
        await self._client.run(RELEASE, [source], [group, self._owner, 0, self._lived(), *ids])

    def _lived(self) -> int:
        """Milliseconds since this reader began, with a little more."""
        return int((self._clock.monotonic() - self._born) * 1000) + 1000

    async def _unblock(self) -> None:
        """End waiting reads of connections that we no longer listen to. Harmless if such an id has a new bearer."""
        cut_off, self._cut_off = self._cut_off, []
        for ident in cut_off:
            await self._client.unblock(ident)

    async def _make_group(self) -> None:
        source, group = self._names
        start = "$" if not self._made and self.membership.subscription.start == "next" else "0"
        alone, turns = self._options.retention == "workqueue", self.membership.turns
        if alone or turns:
            other = await self._client.run(JOIN, [source, *turns], [group, start, int(alone)])
            if other:
                raise ConfigurationError(
                    f"{source!r} is a work queue and belongs to group {other.decode()!r}: {group!r} cannot join. Read as "
                    f"that group, remove it (XGROUP DESTROY), or open every broker with retention='interest'"
                )
        else:
            try:
                await self._client.call("XGROUP", "CREATE", source, group, start, "MKSTREAM")
            except BrokerError as error:
                if code_of(error) != "BUSYGROUP":
                    raise
        _, server_ms = await self._client.run(EXTEND, [source], [group, self._owner, 0])
        self.membership.heard(server_ms, self._clock.monotonic())
        self._made = True

    # ---------------------------------------------------------------------------------------------------- deliveries

    async def _deliver(self, entries: Iterable[Sequence[Any]], start: float) -> list[Delivery[Receipt]]:
        """Entries as ``[id, fields]`` or as the claim script says → deliveries, without what is meant for others."""
        membership = self.membership
        deadline = membership.deadline(start, membership.subscription.lease)
        source, group = self._names
        held, found, others = dict[str, Receipt](), list[Delivery[Receipt]](), list[str]()
        for entry in entries:
            ident, fields, defect, message = entry[0].decode(), entry[1], None, None
            count = entry[2] if len(entry) > 2 else 1
            if len(fields) == 4 and fields[0] == HEADERS and fields[2] == PAYLOAD:
                receipt = Receipt(deadline, fields[1])
                if self._plain:
                    message = plain_message(ident, fields[1], fields[3])
            else:
                receipt = Receipt(deadline, b"", fields)
            if message is None:
                try:
                    message, receipt.headers, only = read_entry(ident, fields)
                    self._plain = not message.headers
                    if only is not None and only != group:
                        others.append(ident)
                        continue
                except Unreadable as wrong:
                    defect, receipt.fields = str(wrong), fields
                    message = Message(id=ident, type="", body=pick(fields)[1] or b"")
            held[ident] = receipt
            found.append(
                Delivery(message=message, source=source, group=group, receipt=receipt, count=count, defect=defect)
            )
            if len(entry) > 2:  # off the fast path
                found[-1] = replace(found[-1], predecessor=predecessor(entry))
        if others:
            await self._pass_by(others)
        membership.held.update(held)
        return found

    async def _pass_by(self, ids: list[str]) -> None:
        """Ack retries that are meant for another group. If that fails, nothing that came with them is held yet."""
        keep, group = int(self._options.keeps), self._names[1]
        try:
            await self._client.run(SETTLE, self.membership.keys, [group, self._owner, NEVER, keep, 0, len(ids), *ids])
        except BaseException:
            self._recover_soon()
            raise


def predecessor(entry: Sequence[Any]) -> Predecessor | None:
    """Whose lease lapsed; nobody's, if the entry was handed back."""
    owner = entry[3].decode("utf-8", "backslashreplace")
    return None if owner in PSEUDO else Predecessor(owner, entry[4] / 1000)
