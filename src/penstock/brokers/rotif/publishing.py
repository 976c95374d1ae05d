"""Outgoing messages and posts → calls of the post script → the fate of each."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from ...bindings import Fate, Post, Posted, matching
from ...broker import Outgoing
from ...clients.redis import Arg, Command, RedisClient, code_of
from ...errors import BrokerError, ConfigurationError, EncodeError, PublishError
from ..redis_streams.wire import milliseconds
from .options import CHANNELS, PATTERNS, SCHEDULED, STREAM, RotifKeys
from .scripts import POST
from .wire import delayed_body, fields_of

PAGE = 1000
REMEMBERED = 10_000  # channels whose patterns are known
TRIES = 20  # looks at patterns that change all the time


class Publisher:
    """Publishes for one broker. What it knows of the patterns is compared in the script that publishes."""

    def __init__(self, client: RedisClient, keys: RotifKeys, dedup_ttl: float) -> None:
        self._client, self._keys, self._dedup_ttl = client, keys, dedup_ttl
        self._patterns: list[str] = []
        self._digest = _digest([])
        self._matches: dict[str, list[str]] = {}

    async def publish(self, messages: Sequence[Outgoing], now: float) -> list[str]:
        """Put messages into the streams that they name."""
        fates: list[Any] = [None] * len(messages)
        for start in range(0, len(messages), PAGE):
            page = range(start, min(start + PAGE, len(messages)))
            commands = {n: made for n in page if (made := self._outgoing(messages[n], now, fates, n))}
            for n, reply in zip(commands, await self._send(list(commands.values())), strict=True):
                fates[n] = reply if isinstance(reply, Exception) else _first(reply)
        failed = [fate for fate in fates if not isinstance(fate, str)]
        if failed and len(failed) == len(fates):
            raise failed[0]
        if failed:
            raise PublishError(fates)
        return fates

    async def post(self, posts: Sequence[Post], now: float) -> list[Fate]:
        """Put messages into the streams of the patterns that match their channels."""
        fates: list[Any] = [None] * len(posts)
        todo = list(range(len(posts)))
        for _ in range(TRIES):
            commands = {n: made for n in todo[:PAGE] if (made := self._post(posts[n], now, fates, n))}
            for n, reply in zip(commands, await self._send(list(commands.values())), strict=True):
                if isinstance(reply, Exception):
                    fates[n] = reply
                elif reply and reply[0] == b"":
                    self._learn(reply[1:])
                else:
                    ids = tuple(each.decode() for each in reply if not each.startswith(b"="))
                    fates[n] = Posted(ids=ids, matched=len(self._matching(posts[n].message.type)))
            todo = [n for n in todo if fates[n] is None]
            if not todo:
                return fates
        wrong = BrokerError("the patterns change faster than a message can be published; try again")
        return [wrong if fate is None else fate for fate in fates]

    def _matching(self, channel: str) -> list[str]:
        found = self._matches.get(channel)
        if found is None:
            if len(self._matches) >= REMEMBERED:
                self._matches.clear()
            found = self._matches[channel] = matching(self._patterns, channel)
        return found

    def _learn(self, patterns: Sequence[bytes]) -> None:
        names = [name.decode("utf-8", "surrogateescape") for name in patterns]
        self._patterns, self._digest = names, _digest(patterns)
        self._matches.clear()

    def _post(self, post: Post, now: float, fates: list[Any], place: int) -> Command | None:
        channel = post.message.type
        names = self._matching(channel) or ([channel] if post.keep else [])
        item = Outgoing(destination="", message=post.message, delay=post.delay, once=post.once)
        return self._command(item, [STREAM + name for name in names], now, fates, place, post.mark)

    def _outgoing(self, item: Outgoing, now: float, fates: list[Any], place: int) -> Command | None:
        return self._command(item, [], now, fates, place)

    def _command(
        self,
        item: Outgoing,
        streams: Sequence[str],
        now: float,
        fates: list[Any],
        place: int,
        mark: str | None = None,
    ) -> Command | None:
        """The call that publishes to these streams, or to the one that the item names; ``None``, and its fate is told,
        for what cannot be written.
        """
        named = bool(item.destination)
        try:
            args = self._arguments(item, [item.destination] if named else streams, now, mark or item.message.key)
        except (EncodeError, ConfigurationError) as wrong:
            fates[place] = wrong
            return None
        except (UnicodeError, TypeError, ValueError, OverflowError) as wrong:
            fates[place] = EncodeError(f"the message to channel {item.message.type!a} cannot be written: {wrong}")
            return None
        return POST.command((PATTERNS, CHANNELS, SCHEDULED), ("" if named else self._digest, *args))

    def _arguments(self, item: Outgoing, streams: Sequence[str], now: float, mark: str | None) -> list[Arg]:
        message, once = item.message, item.once
        if once is not None and mark is None:
            raise ConfigurationError(f"a message to {message.type!r} is to be published once but has no key")
        fields = fields_of(message, now, self._dedup_ttl)
        wait, head, tail = "", b"", b""
        if item.delay > 0:
            wait = str(milliseconds(item.delay + 0.0004999))  # rounded up: never early
            head, tail = delayed_body(fields)
        ttl = "" if once is None else str(max(milliseconds(once), 1))
        args: list[Arg] = [message.type, wait, ttl, "" if item.destination else "1", head, tail, len(fields), *fields]
        for stream in streams:
            key = "" if once is None else self._keys.once(stream, message.type, mark or "")
            args += [stream, msgspec.json.encode(stream), key, str(uuid.uuid4()) if item.delay > 0 else ""]
        return args

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Replies in order. A server that forgot the script is told again, all in the same order."""
        replies = await self._client.many(commands)
        lost = [n for n, reply in enumerate(replies) if code_of(reply) == "NOSCRIPT"]
        if lost:
            again = [commands[n] for n in lost]
            again[0] = ("EVAL", POST.text, *again[0][2:])
            for n, reply in zip(lost, await self._client.many(again), strict=True):
                replies[n] = reply
        return replies


def _digest(patterns: Sequence[bytes]) -> str:
    return hashlib.sha1(b"\0".join(patterns), usedforsecurity=False).hexdigest()


def _first(reply: Sequence[bytes]) -> str:
    return reply[0].decode().removeprefix("=")
