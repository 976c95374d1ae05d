"""Channels: names that messages are published to, and patterns that bring them to those who subscribed.

A pattern that is bound has a source of its own. A message that is posted to a channel goes to the source of each bound
pattern that matches, once for each, whatever the number of groups that read it there. Patterns mean what ``penstock.glob``
says. A binding belongs to a group and lasts until it is taken back: readers may come and go meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec
from msgspec.structs import replace

from .broker import Outgoing
from .glob import glob
from .message import Message

PREFIX = "notifications:"


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way to a channel, which is the message's ``type``.

    ``delay``: seconds before it may be fetched; who it goes to is decided now. ``once``: seconds during which a second
    message with the same channel and key is not given to a pattern again; the key is ``mark``, or ``message.key``.
    ``keep``: if nothing matches, put it where the pattern that is the channel's own name would find it.
    """

    message: Message
    delay: float = 0.0
    once: float | None = None
    mark: str | None = None
    keep: bool = False


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a post. ``matched``: patterns that it belongs to; ``ids``: one for each that has not had it before.

    One that was kept for later has an id and no match.
    """

    ids: tuple[str, ...] = ()
    matched: int = 0


Fate: TypeAlias = Posted | Exception


@runtime_checkable
class SupportsBindings(Protocol):
    """Knows patterns, and spreads what is posted to a channel."""

    def source_of(self, pattern: str) -> str:
        """The source to subscribe to for what a pattern matches. Needs no I/O."""
        ...

    async def bind(self, pattern: str, group: str) -> str:
        """Bring what a pattern matches from now on to its source, for ``group``; return the source. Idempotent."""
        ...

    async def unbind(self, pattern: str, group: str) -> bool:
        """Take a binding back, and the group with what it has not read; false if it was not there, or is in use.

        With its last group the pattern is gone, and nothing is brought to its source any more. A broker that can tell
        that somebody else reads as this group leaves all as it is.
        """
        ...

    async def bindings(self) -> Mapping[str, frozenset[str]]:
        """The groups of each pattern that is bound; none are known of those that others than penstock have bound."""
        ...

    async def post(self, posts: Sequence[Post]) -> Sequence[Fate]:
        """Spread messages; tell each one's fate in order. A post reaches all its patterns or none.

        Order is kept per source. Returns only when the system has them. After ``ConnectionFailed`` the fate of all is
        unknown.
        """
        ...

    async def dead_sources(self) -> Sequence[str]:
        """The sources among whose dead letters those of all patterns are."""
        ...


def matching(patterns: Iterable[str], channel: str) -> list[str]:
    """Those of the patterns that match a channel."""
    return [pattern for pattern in patterns if glob(pattern).matches(channel)]


def outgoing(post: Post, sources: Iterable[str]) -> list[Outgoing]:
    """A post as messages for these sources."""
    message = post.message if post.mark is None else replace(post.message, key=post.mark)
    return [Outgoing(destination=source, message=message, delay=post.delay, once=post.once) for source in sources]
