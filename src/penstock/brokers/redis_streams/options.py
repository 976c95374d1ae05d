"""What can be chosen about a Redis Streams broker, where its keys are and what a delivery carries."""

from __future__ import annotations

import os
import socket
from typing import Literal

import msgspec

from ...checks import one_of, positive
from .wire import Fields


class RedisStreamsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``consumer``: this owner's name in its groups, by default ``host:pid:random``; it must be unique among processes.

    ``retention``: ``delete`` removes an entry once every group has acked it; ``keep`` never does, as glide-kit.
    ``look_around``: seconds between looks for what others handed back, while there is nothing new.
    ``owner_gone_after``: seconds of silence (at least ten leases) before an owner that holds nothing is forgotten.
    """

    consumer: str | None = None
    retention: Literal["delete", "keep"] = "delete"
    look_around: float = 1.0
    owner_gone_after: float = 3600.0

    def __post_init__(self) -> None:
        one_of("retention", self.retention, ("delete", "keep"))
        positive("look_around, in seconds,", self.look_around)
        positive("owner_gone_after, in seconds,", self.owner_gone_after)


class Receipt(msgspec.Struct, gc=False):
    """Proof of a lease. ``deadline``: the moment on our monotonic clock until which nobody can have taken it over.

    ``headers``: as they came. ``fields``: the whole entry, where it is more than headers and payload.
    """

    deadline: float
    headers: bytes = b""
    fields: Fields | None = None


class Keys:
    """Names of the keys beside a stream. With a hash tag in the name (``{email}``) all of them share its slot."""

    @staticmethod
    def delayed(stream: str) -> str:
        return f"{stream}:retry"

    @staticmethod
    def dead(stream: str) -> str:
        return f"{stream}:dlq"

    @staticmethod
    def once(stream: str, type_: str, key: str) -> str:
        return f"idempotency:{stream}:{type_}:{key}"


def new_identity() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
