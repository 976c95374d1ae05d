"""What can be chosen about a Rotif broker, and the names of its keys."""

from __future__ import annotations

import re

from ...checks import not_negative
from ...errors import ConfigurationError
from ..redis_streams.options import Keys, RedisStreamsOptions

STREAM, RETRY = "rotif:stream:", ":retry"
PATTERNS, BOUND, READERS, CHANNELS = "rotif:patterns", "rotif:bound:", "rotif:readers:", "rotif:channels"
SCHEDULED, DELAYED, DEAD = "rotif:scheduled", "rotif:delayed:", "rotif:dlq"
ARCHIVE = "rotif:dlq:archive"


class RotifOptions(RedisStreamsOptions, frozen=True, kw_only=True):
    """``RedisStreamsOptions``, and: ``dedup_ttl``: seconds that a message names for deduplication if it names none.

    ``min_id``: with it, acked entries stay from this id on; what is unread or leased stays in any case.
    """

    dedup_ttl: float = 3600.0
    min_id: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("dedup_ttl, in seconds,", self.dedup_ttl)
        if self.min_id is not None and not re.fullmatch(r"\d+(-\d+)?", self.min_id):
            raise ConfigurationError(f"min_id is the id of an entry, such as '1700000000000-0', got {self.min_id!r}")
        if self.min_id is not None and self.retention != "interest":
            raise ConfigurationError(f"min_id and retention={self.retention!r} do not go together: leave one out")

    @property
    def keeps(self) -> bool:
        return self.min_id is not None or super().keeps

    @property
    def first_kept(self) -> str:
        """``min_id`` in full, or an empty text."""
        if self.min_id is None:
            return ""
        return self.min_id if "-" in self.min_id else f"{self.min_id}-0"


class RotifKeys(Keys):
    """All delayed messages are in one set, all dead letters in one stream."""

    __slots__ = ()

    def delayed(self, stream: str) -> str:
        return SCHEDULED

    def dead(self, stream: str) -> str:
        return DEAD

    def once(self, stream: str, type_: str, key: str) -> str:
        return f"rotif:dedup:{type_}:{key}:*:{pattern_of(stream)}"


def pattern_of(stream: str) -> str:
    """The pattern that a stream is for."""
    return stream.removesuffix(RETRY).removeprefix(STREAM)


def retries_of(stream: str) -> str:
    """The stream that holds what comes again: that of a stream of retries is itself."""
    return stream if stream.endswith(RETRY) else stream + RETRY
