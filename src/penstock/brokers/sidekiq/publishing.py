"""Outgoing messages → commands → the fate of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...broker import Outgoing
from ...clients.redis import Arg, RedisClient
from ...errors import BrokerError, ConfigurationError, EncodeError, PublishError
from . import keys
from .scripts import PUSH
from .wire import Timestamps, job_of

MAX_BYTES = 8 * 1024 * 1024


class _Commands:
    """What goes out in one go, and which messages each command carries: place and jid."""

    def __init__(self) -> None:
        self.commands: list[list[Arg]] = []
        self.carried: list[list[tuple[int, str]]] = []
        self.size = 0
        self._queue: str | None = None  # whose LPUSH is the last command

    def add(self, place: int, jid: str, job: bytes, item: Outgoing) -> None:
        """One more message. Neighbours that go to one queue at once share an LPUSH: it keeps their order."""
        queue, message = item.destination, item.message
        at = message.headers.get("at")
        self.size += len(job)
        if at is None and item.delay <= 0 and item.once is None:
            if self._queue != queue:
                self.commands.append(["SADD", keys.QUEUES, queue])
                self.commands.append(["LPUSH", keys.queue(queue)])
                self.carried += [[], []]
                self._queue = queue
            self.commands[-1].append(job)
        else:
            self._queue = None
            single: list[Arg] = ["ZADD", keys.SCHEDULE, at, job] if at is not None else _scripted(item, jid, job)
            self.commands.append(single)
            self.carried.append([])
        self.carried[-1].append((place, jid))


async def publish(client: RedisClient, messages: Sequence[Outgoing], now: float, timestamps: Timestamps) -> list[str]:
    """Publish in order, in as few round trips as reasonable. Returns the jids."""
    fates: list[Any] = [None] * len(messages)
    batch = _Commands()
    for place, item in enumerate(messages):
        try:
            at_once = item.delay <= 0 and "at" not in item.message.headers
            jid, job = job_of(item.message, item.destination, now, timestamps, enqueued=at_once)
            batch.add(place, jid, job, item)
        except (ConfigurationError, EncodeError) as wrong:
            fates[place] = wrong
            continue
        if batch.size >= MAX_BYTES:
            await _send(client, batch, fates)
            batch = _Commands()
    await _send(client, batch, fates)
    failed = [fate for fate in fates if not isinstance(fate, str)]
    if not failed:
        return fates
    if len(failed) == len(fates):
        raise failed[0]
    raise PublishError([fate if isinstance(fate, str | Exception) else BrokerError(repr(fate)) for fate in fates])


def _scripted(item: Outgoing, jid: str, job: bytes) -> list[Arg]:
    """A message with a delay or to be published once, as a call of the script."""
    message, lock = item.message, ""
    if item.once is not None:
        if message.key is None:
            raise ConfigurationError(f"a message of type {message.type!r} is to be published once but has no key")
        lock = keys.once(item.destination, message.type, message.key)
    delay = f"{item.delay:.6f}" if item.delay > 0 else ""
    ttl = max(int((item.once or 0.0) * 1000), 1)
    # By its text: within one round trip there is no second chance for a server that does not know it yet
    return [*PUSH.command((), (item.destination, job, jid, delay, lock, ttl), whole=True)]


async def _send(client: RedisClient, batch: _Commands, fates: list[Any]) -> None:
    if not batch.commands:
        return
    replies = await client.many(batch.commands)
    for reply, carried in zip(replies, batch.carried, strict=True):
        for place, jid in carried:
            if isinstance(reply, Exception):
                fates[place] = reply
            else:
                fates[place] = reply.decode() if isinstance(reply, bytes) else jid
