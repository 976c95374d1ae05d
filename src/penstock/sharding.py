"""A stream in several parts: ``email:0`` … ``email:3``, so that more than one node, or core of a server, carries it.

Producers and consumers are told the same number. Messages with the same key are in the same shard, the others take
turns. The choice is the same in every process and release: CRC-32 of the key.
"""

from __future__ import annotations

import zlib

from .checks import at_least_one
from .errors import ConfigurationError


def shard_names(stream: str, shards: int) -> tuple[str, ...]:
    """The streams that ``stream`` consists of: itself, if it has one shard."""
    at_least_one("shards", shards)
    if shards > 1 and "{" in stream:
        raise ConfigurationError(
            f"the stream {stream!r} has a hash tag, which would keep all its shards on one node; name it without braces"
        )
    return tuple(f"{stream}:{n}" for n in range(shards)) if shards > 1 else (stream,)


class Shards:
    """Which shard a message goes to."""

    __slots__ = ("_next", "names")

    def __init__(self, stream: str, shards: int, *, seed: str) -> None:
        self.names = shard_names(stream, shards)
        self._next = zlib.crc32(seed.encode()) % shards  # so that not all processes begin with the first

    def choose(self, key: str | None) -> str:
        """By the key, or the next in turn."""
        names = self.names
        if key is not None:
            return names[zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(names)]
        chosen = self._next
        self._next = (chosen + 1) % len(names)
        return names[chosen]
