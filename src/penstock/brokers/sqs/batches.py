"""Calls for many messages: in tens, several at once, and with the fate of each entry honoured.

An answer may say of each entry that it was done, throttled or refused. What was throttled is asked again, a few times;
what was refused is an error of that entry alone; a call that broke is an error of all of its entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import BrokerError, ConnectionFailed
from . import wire
from .connection import TRIES, Connection, QueueMissing, is_throttled, names_of
from .names import FIFO, Queues

TEN = 10  # entries of one call
GONE = frozenset({"ReceiptHandleIsInvalid", "InvalidReceiptHandle", "MessageNotInflight", "InvalidParameterValue"})


class Batches:
    """Sends, deletes and makes visible, many at a time. ``most``: bytes of one message, and of one call."""

    def __init__(self, connection: Connection, queues: Queues, max_message: int) -> None:
        self._connection, self._queues, self.most = connection, queues, max_message

    async def send(self, queue: str, entries: Sequence[dict[str, Any]]) -> list[str | Exception]:
        """The id of each entry, or why it was not sent.

        To a standard queue the calls go at once. Those to a FIFO queue go in turn, and none after one that failed:
        what comes later must not overtake.
        """
        fates: list[str | Exception] = [BrokerError("not tried, because one before it failed")] * len(entries)
        chunks = chunked(entries, fates, self.most)
        ordered = queue.endswith(FIFO)

        async def run(chunk: Sequence[int]) -> bool:
            for place, fate in zip(chunk, await self._send(queue, [entries[n] for n in chunk], ordered), strict=True):
                fates[place] = fate
            return all(isinstance(fates[place], str) for place in chunk)

        if not ordered:
            await asyncio.gather(*map(run, chunks))
            return fates
        for chunk in chunks:
            if not await run(chunk):
                break
        return fates

    async def delete(self, queue: str, handles: Sequence[str]) -> list[bool]:
        """Delete; false for those whose receipt the service does not know any more. Raises what went wrong."""
        return await self._settle(queue, "delete_message_batch", [{"ReceiptHandle": handle} for handle in handles])

    async def show(self, queue: str, handles: Sequence[str], seconds: Sequence[int]) -> list[bool]:
        """Change when they become visible, from now; false as with ``delete``."""
        entries = [
            {"ReceiptHandle": handle, "VisibilityTimeout": after}
            for handle, after in zip(handles, seconds, strict=True)
        ]
        return await self._settle(queue, "change_message_visibility_batch", entries)

    async def _send(self, queue: str, entries: Sequence[dict[str, Any]], ordered: bool) -> list[str | Exception]:
        fates: list[str | Exception] = [BrokerError("the service said nothing of it")] * len(entries)
        open_, tries = [*range(len(entries))], 1 if ordered else TRIES
        for attempt in range(tries):
            if attempt:
                await self._connection.pause(attempt - 1)
            batch = [{"Id": str(place), **entries[place]} for place in open_]
            try:
                answer = await self._queues.on(
                    queue,
                    lambda url: self._connection.short("send_message_batch", QueueUrl=url, Entries=batch),  # noqa: B023
                )
            except BrokerError as error:
                for place in open_:
                    fates[place] = error
                return fates
            for done in answer.get("Successful", ()):
                fates[int(done["Id"])] = done["MessageId"]
            open_ = list[int]()
            for failed in answer.get("Failed", ()):
                place = int(failed["Id"])
                fates[place] = failure(queue, failed)
                if is_throttled(failed):
                    open_.append(place)
            if not open_:
                break
        return fates

    async def _settle(self, queue: str, operation: str, entries: Sequence[Mapping[str, Any]]) -> list[bool]:
        done = [False] * len(entries)

        async def run(first: int) -> None:
            open_ = list(range(first, min(first + TEN, len(entries))))
            for attempt in range(TRIES):
                if attempt:
                    await self._connection.pause(attempt - 1)
                answer = await self._ask(queue, operation, [{"Id": str(n), **entries[n]} for n in open_])
                for each in answer.get("Successful", ()):
                    done[int(each["Id"])] = True
                failed = answer.get("Failed", ())
                open_ = [int(each["Id"]) for each in failed if is_throttled(each)]
                for each in failed:
                    if not is_throttled(each) and not names_of(each) & GONE:
                        raise failure(queue, each)
                if not open_:
                    return
            raise ConnectionFailed(f"{operation} on {queue!r}: throttled {TRIES} times")

        results = await asyncio.gather(*map(run, range(0, len(entries), TEN)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return done

    async def _ask(self, queue: str, operation: str, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What vanished with its queue is gone."""
        url = await self._queues.find(queue)
        if url is None:
            return {}
        try:
            return await self._connection.short(operation, QueueUrl=url, Entries=entries)
        except QueueMissing:
            self._queues.forget(queue)
            return {}


def chunked(entries: Sequence[dict[str, Any]], fates: list[str | Exception], most: int) -> list[list[int]]:
    """Places of entries that fit in one call of ``most`` bytes. What fits in none has its fate now."""
    chunks, room = list[list[int]](), 0
    for place, each in enumerate(entries):
        needed = wire.size(each)
        if needed > most:
            fates[place] = wire.too_large(needed, most)
        elif chunks and len(chunks[-1]) < TEN and needed <= room:
            chunks[-1].append(place)
            room -= needed
        else:
            chunks.append([place])
            room = most - needed
    return chunks


def failure(queue: str, failed: Mapping[str, Any]) -> BrokerError:
    """Why an entry of a call failed."""
    text = f"{queue!r}: {failed.get('Code', '?')}: {failed.get('Message', '')}"
    return ConnectionFailed(text) if is_throttled(failed) else BrokerError(text)
