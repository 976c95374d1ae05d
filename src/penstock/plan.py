"""What a consumer was told: its claim, its options, and all of it together, ready to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from .audit import Audit
from .batches import Batch
from .broker import Broker, Subscription
from .checks import at_least_one, one_of, positive
from .executor import Expired, Limits, Refused
from .intake import Prefetch
from .pipeline import ConsumeMiddleware
from .queues import Queues
from .rates import Rates
from .registry import Registry
from .retry import RetryPolicy
from .services import Service
from .sharding import shard_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Recovery of what dead workers left. ``min_idle`` is the lease, in seconds: a message whose owner has not renewed
    it for so long is taken over. ``max_per_tick`` messages every ``interval`` seconds.
    """

    min_idle: float = 30.0
    max_per_tick: int = 128
    interval: float = 1.0

    def __post_init__(self) -> None:
        positive("min_idle, the lease in seconds,", self.min_idle)
        at_least_one("max_per_tick", self.max_per_tick)
        positive("interval, in seconds,", self.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What rarely needs to be said about a consumer.

    ``start``: where a new group begins. ``delayed``: name of the structure that holds retries, where the broker lets
    one choose. ``threads``: most plain-function handlers at once, by default the consumer's concurrency.
    ``expired``: what becomes of a message whose time is over when it would begin: a dead letter, nothing, or, for dead
    letters that were put back, an execution like any other. ``refused``: told of each message that becomes a dead
    letter without having run, with its outcome. ``rates``: how much of which queue may be fetched in which time.
    ``registry``: finds the handler of a message; a programming model brings its own. ``services``: further roles that
    run beside the consumer.
    """

    prefetch: Prefetch = field(default_factory=Prefetch)
    limits: Limits = field(default_factory=Limits)
    start: Literal["first", "next"] = "first"
    delayed: str | None = None
    threads: int | None = None
    expired: Expired = "dead_letter"
    refused: Refused | None = None
    rates: Rates | None = None
    registry: Registry | None = None
    services: Sequence[Service] = ()

    def __post_init__(self) -> None:
        one_of("start", self.start, ("first", "next"))
        one_of("expired", self.expired, ("dead_letter", "discard", "run"))
        if self.threads is not None:
            at_least_one("threads", self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a consumer was told, ready to be run."""

    broker: Broker[Any]
    subscription: Subscription
    registry: Registry
    policy: RetryPolicy
    middleware: tuple[ConsumeMiddleware, ...]
    concurrency: int
    claim: Claim
    options: Options
    timeout: float | None = None
    batch: Batch | None = None
    ordered: bool = False
    shards: int = 1
    queues: Queues | None = None
    archive: Audit | None = None

    @property
    def at_once(self) -> int:
        """Most messages in handlers' hands, and as many more in the next batches."""
        return self.concurrency * (2 * self.batch.size if self.batch is not None else 1)

    @property
    def name(self) -> str:
        """``stream/group``, for people."""
        return f"{self.subscription.source}/{self.subscription.group}"

    def lanes(self) -> list[Plan]:
        """A plan for each shard, which has a share of the slots: a shard that is lost or slow holds up no other."""
        if self.shards == 1:
            return [self]
        names = shard_names(self.subscription.source, self.shards)
        threads = self.options.threads and -(-self.options.threads // self.shards)
        return [
            replace(
                self,
                subscription=msgspec.structs.replace(self.subscription, source=name),
                concurrency=-(-self.concurrency // self.shards),
                options=replace(self.options, threads=threads),
                shards=1,
            )
            for name in names
        ]
