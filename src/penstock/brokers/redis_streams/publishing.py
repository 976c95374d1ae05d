"""Outgoing messages → commands → the fate of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ...broker import Outgoing
from ...clients.redis import Command, RedisClient, code_of
from ...errors import BrokerError, ConfigurationError, EncodeError, PublishError
from .dialect import Dialect, Later
from .options import Keys
from .scripts import PUBLISH
from .wire import milliseconds

MAX_MESSAGES = 1000
MAX_BYTES = 8 * 1024 * 1024


async def publish(
    client: RedisClient, dialect: Dialect, keys: Keys, messages: Sequence[Outgoing], now: float
) -> list[str]:
    """Publish in order, in as few round trips as reasonable."""
    fates: list[Any] = [None] * len(messages)
    places: list[int] = []
    commands: list[Command] = []
    size, entry = 0, dialect.entry
    script_sent = False  # within one round trip the server learns the script from its first use
    for place, item in enumerate(messages):
        try:
            if item.delay <= 0 and item.once is None:
                command: Command = ("XADD", item.destination, "*", *entry(item.message, now))
            else:
                command = _scripted(item, dialect, keys, now, whole=not script_sent and len(messages) > 1)
                script_sent = True
        except (ConfigurationError, EncodeError) as wrong:
            fates[place] = wrong
            continue
        except (TypeError, ValueError, OverflowError, RecursionError) as wrong:
            fates[place] = EncodeError(f"the message of type {item.message.type!a} cannot be written: {wrong}")
            continue
        commands.append(command)
        places.append(place)
        size += len(item.message.body) + 256
        if len(commands) >= MAX_MESSAGES or size >= MAX_BYTES:
            await _send(client, commands, places, fates)
            commands, places, size, script_sent = [], [], 0, False
    await _send(client, commands, places, fates)
    return _judge(fates)


def _scripted(item: Outgoing, dialect: Dialect, names: Keys, now: float, *, whole: bool) -> Command:
    """A message with a delay or to be published once, as a call of the script."""
    message, stream = item.message, item.destination
    keys = [stream, names.delayed(stream)]
    if item.once is not None:
        if message.key is None:
            raise ConfigurationError(f"a message of type {message.type!r} is to be published once but has no key")
        keys.append(names.once(stream, message.type, message.key))
    ident, member, delay = os.urandom(12).hex(), b"", ""
    if item.delay > 0:
        delay = str(milliseconds(item.delay + 0.0004999))  # rounded up: never early
        at = now if message.enqueued_at is None else message.enqueued_at
        later = Later(stream=stream, message=message, attempt=message.attempt, enqueued_at=at, ident=ident)
        head, _, tail = dialect.later(later)
        member = head + tail
    ttl = max(milliseconds(item.once or 0), 1)
    return PUBLISH.command(keys, (delay, ttl, ident, member, *dialect.entry(message, now)), whole=whole)


async def _send(client: RedisClient, commands: list[Command], places: list[int], fates: list[Any]) -> None:
    replies = await client.many(commands)
    again: list[tuple[int, Command]] = []
    for place, command, reply in zip(places, commands, replies, strict=True):
        if type(reply) is bytes:
            fates[place] = reply.decode()
        elif code_of(reply) == "NOSCRIPT":
            again.append((place, ("EVAL", PUBLISH.text, *command[2:])))
        else:
            fates[place] = reply
    if again:
        for (place, _), reply in zip(again, await client.many([command for _, command in again]), strict=True):
            fates[place] = reply.decode() if isinstance(reply, bytes) else reply


def _judge(fates: list[Any]) -> list[str]:
    """The ids, or the error: the plain one if nothing was published, else one that tells each message's fate."""
    failed = [fate for fate in fates if not isinstance(fate, str)]
    if not failed:
        return fates
    if len(failed) == len(fates):
        raise failed[0]
    raise PublishError([fate if isinstance(fate, str | Exception) else BrokerError(repr(fate)) for fate in fates])
