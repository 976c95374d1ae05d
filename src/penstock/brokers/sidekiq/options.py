"""What can be chosen about a Sidekiq broker, and what a delivery carries."""

from __future__ import annotations

import os
import socket
from typing import Literal

import msgspec

from ...checks import at_least_one, one_of, positive
from ...errors import ConfigurationError


class SidekiqOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``timestamps``: how times are written in jobs: ``ms``, integers, as Sidekiq 8 does, or ``float``, seconds, which
    6, 7 and 8 all read: for fleets with an older Ruby in them. Both are read, whatever is written.
    ``identity``: this process's name, by default ``host:pid:random``; it must be unique among processes.
    ``dead_max_jobs`` and ``dead_timeout``, in seconds: what the dead set keeps; as Ruby does, one job less.
    ``foreign_grace``: seconds that lapsed jobs of queues which this owner does not read wait for those who do.
    """

    timestamps: Literal["ms", "float"] = "ms"
    identity: str | None = None
    dead_max_jobs: int = 10_000
    dead_timeout: float = 180 * 86_400.0
    foreign_grace: float = 10.0

    def __post_init__(self) -> None:
        one_of("timestamps", self.timestamps, ("ms", "float"))
        at_least_one("dead_max_jobs", self.dead_max_jobs)
        positive("dead_timeout, in seconds,", self.dead_timeout)
        positive("foreign_grace, in seconds,", self.foreign_grace)
        if self.identity is not None and (not self.identity or "|" in self.identity):
            raise ConfigurationError(f"identity is a text without '|', such as host:pid:random, got {self.identity!r}")


class Receipt(msgspec.Struct, gc=False):
    """Proof of a lease: the job's own text in its owner's list of its ``queue``.

    ``renewed``: on our monotonic clock, when its lease was last asked for. ``shelved``: we have put it aside, to lapse.
    """

    raw: bytes
    queue: str
    renewed: float
    shelved: bool = False


def new_identity() -> str:
    """``host:pid:random``, as Sidekiq names its processes; unique for each start."""
    host = os.environ.get("DYNO") or socket.gethostname()
    return f"{host.replace('|', '-')}:{os.getpid()}:{os.urandom(6).hex()}"
