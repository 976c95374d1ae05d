"""Publishing: each destination's messages in tens, every one with its fate."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ...broker import Outgoing
from ...errors import AccessDenied, BrokerError, ConnectionFailed, EncodeError, PublishError, UnsupportedFeature
from ...message import Message
from . import wire
from .batches import Batches
from .fanout import Topics
from .names import FIFO, Names
from .options import MAX_LEASE

_GROUP_ALPHABET = frozenset(map(chr, range(0x21, 0x7F)))
_MAX_GROUP = 128


async def publish(
    batches: Batches, names: Names, messages: Sequence[Outgoing], now: float, topics: Topics | None = None
) -> list[str]:
    """The ids in order. Raises ``PublishError`` if some were refused, ``ConnectionFailed`` if none can be said to be in."""
    fates: list[str | Exception] = [BrokerError("not tried")] * len(messages)
    queues: defaultdict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for place, item in enumerate(messages):
        queue = names.queue(item.destination)
        try:
            entry = _entry(queue, item, now) if topics is None else _announced(item, now)
            queues[queue if topics is None else item.destination].append((place, entry))
        except (EncodeError, UnsupportedFeature) as error:
            fates[place] = error

    async def run(queue: str, items: Sequence[tuple[int, dict[str, Any]]]) -> None:
        send = batches.send if topics is None else topics.send
        for (place, _), fate in zip(items, await send(queue, [each for _, each in items]), strict=True):
            fates[place] = fate

    await asyncio.gather(*(run(queue, items) for queue, items in queues.items()))
    ids = [fate for fate in fates if isinstance(fate, str)]
    if len(ids) == len(fates):
        return ids
    outage = next((fate for fate in fates if isinstance(fate, ConnectionFailed | AccessDenied)), None)
    if outage is not None and not ids:
        raise outage
    raise PublishError(fates)


def addressed(entry: dict[str, Any], message: Message) -> dict[str, Any]:
    """An entry for a FIFO queue: in the group of its key, or in one of its own."""
    unique = secrets.token_hex(16)
    entry["MessageGroupId"] = unique if message.key is None else group_of(message.key)
    entry["MessageDeduplicationId"] = unique
    return entry


def group_of(key: str) -> str:
    """A key as SQS's name of a group: itself, or its hash where it is too long or has other characters."""
    if 0 < len(key) <= _MAX_GROUP and _GROUP_ALPHABET.issuperset(key):
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _announced(item: Outgoing, now: float) -> dict[str, Any]:
    """An entry for a topic, which knows no delay."""
    _not_once(item)
    try:
        return wire.entry(item.message, due=now + item.delay if item.delay > 0 else None)
    except (TypeError, ValueError, RecursionError) as wrong:
        raise EncodeError(f"the headers are no JSON: {wrong}") from None


def _not_once(item: Outgoing) -> None:
    if item.once is not None:
        raise UnsupportedFeature(
            "SQS cannot publish once for each key; give the producer an Idempotency with a cache, or let the consumer"
            " deduplicate"
        )


def _entry(queue: str, item: Outgoing, now: float) -> dict[str, Any]:
    _not_once(item)
    try:
        if not queue.endswith(FIFO):
            return wire.delayed(item.message, item.delay, now)
        if item.delay > MAX_LEASE:
            raise UnsupportedFeature(f"a FIFO queue delays by at most {MAX_LEASE:.0f} seconds, got {item.delay}")
        due = now + item.delay if item.delay > 0 else None
        return addressed(wire.entry(item.message, due=due), item.message)
    except (TypeError, ValueError, RecursionError) as wrong:
        raise EncodeError(f"the headers are no JSON: {wrong}") from None
