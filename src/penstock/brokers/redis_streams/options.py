"""What can be chosen about a Redis Streams broker, where its keys are and what a delivery carries."""

from __future__ import annotations

import os
import socket
from typing import get_args

import msgspec

from ...broker import Retention
from ...checks import at_least_one, finite, not_negative, one_of, positive
from ...errors import ConfigurationError
from .wire import Fields

RELEASED, PARKED, ARRIVING = "released", "parked", "arriving"
PSEUDO = frozenset({RELEASED, PARKED, ARRIVING})  # consumers that are no processes: what they hold waits


class RedisStreamsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``consumer``: this owner's name in its groups, by default ``host:pid:random``; it must be unique among processes.

    ``retention``: ``interest`` removes an entry once every group has acked it; ``workqueue`` too,
    and admits one group only; ``limits`` keeps acked entries until there are more than ``max_length`` or they are older
    than ``max_age`` seconds; ``keep`` never removes one, as glide-kit. None of them touches what is unread or leased.
    ``look_around``: seconds between looks for what others handed back, while there is nothing new.
    ``owner_gone_after``: seconds of silence (at least ten leases) before an owner that holds nothing is forgotten.
    """

    consumer: str | None = None
    retention: Retention = "interest"
    max_length: int | None = None
    max_age: float | None = None
    look_around: float = 1.0
    owner_gone_after: float = 3600.0

    def __post_init__(self) -> None:
        one_of("retention", self.retention, get_args(Retention))
        limited = self.max_length is not None or self.max_age is not None
        if limited != (self.retention == "limits"):
            raise ConfigurationError("retention='limits' goes with max_length, max_age or both, and only it does")
        if self.consumer in PSEUDO:
            raise ConfigurationError(f"a consumer cannot be named {self.consumer!r}: the driver uses that name itself")
        if self.max_length is not None:
            at_least_one("max_length, the acked entries that stay,", self.max_length)
        if self.max_age is not None:
            not_negative("max_age, in seconds,", self.max_age)
            finite("max_age", self.max_age)
        positive("look_around, in seconds,", self.look_around)
        positive("owner_gone_after, in seconds,", self.owner_gone_after)

    @property
    def keeps(self) -> bool:
        """Whether acked entries stay when they are acked."""
        return self.retention in {"keep", "limits"}


class Receipt(msgspec.Struct, gc=False):
    """Proof of a lease. ``deadline``: the moment on our monotonic clock until which nobody can have taken it over.

    ``headers``: as they came. ``fields``: the whole entry, where it is more than headers and payload.
    """

    deadline: float
    headers: bytes = b""
    fields: Fields | None = None


class Keys:
    """Names of the keys beside a stream.

    In a cluster (``tagged``) all of them must be in the slot of the stream: ``{email}:retry`` beside ``email``. A stream
    whose name has a hash tag (``{email}``) needs no other names for that, and has the same ones everywhere.
    """

    __slots__ = ("_tagged",)

    def __init__(self, *, tagged: bool = False) -> None:
        self._tagged = tagged

    def delayed(self, stream: str) -> str:
        return f"{self._beside(stream)}:retry"

    def dead(self, stream: str) -> str:
        return f"{self._beside(stream)}:dlq"

    def is_dead(self, name: str) -> bool:
        """Whether a stream of this name holds dead letters."""
        return name.endswith(":dlq")

    def turns(self, stream: str, group: str) -> list[str]:
        """What a keyed subscription keeps: who has the turn of each key, and who waits for it."""
        beside = self._beside(stream)
        return [f"{beside}:turns:{group}", f"{beside}:lanes:{group}"]

    def once(self, stream: str, type_: str, key: str) -> str:
        return f"idempotency:{self._beside(stream)}:{type_}:{key}"

    def _beside(self, stream: str) -> str:
        if not self._tagged:
            return stream
        opening = stream.find("{")
        if opening >= 0 and stream.find("}", opening) > opening + 1:
            return stream
        if "}" in stream:
            raise ConfigurationError(
                f"the stream {stream!r} has a brace but no hash tag: in a cluster its retries and dead letters could not"
                " be kept beside it. Name it without braces, or as {tag}rest"
            )
        return f"{{{stream}}}"


def new_identity() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
