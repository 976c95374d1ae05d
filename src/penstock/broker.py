"""The one port of the library: what a message system must be able to do.

The life of a delivery::

    publish ──► ready ──fetch──► leased ──settle──┬─ Ack ─────────► gone (for this group)
       │          ▲                │              ├─ DeadLetter ──► dead letters, whole, with the reason
       └─delay─► delayed ◄─────────│──────────────┼─ Retry(delay) ─► one attempt older
                  │                │              └─ Release ─────► as if never fetched
                  └─ due ─► ready  └─ owner silent for longer than the lease ─► handed to another owner, count + 1

Rules that hold for every driver:

* **Nothing is lost.** From the return of ``publish`` until a terminal outcome the message exists in the system, and
  every move between two structures is one atomic step.
* **Fencing.** ``settle`` and ``extend`` change nothing for a delivery whose lease has passed to another owner; they
  return such deliveries, and the caller must not try again.
* **Groups are independent.** Whatever one group does with a message never shows in another.
* **Batches.** Every verb takes many. One bad item never hurts its neighbours.
* **Concurrency.** All methods may be called concurrently from one event loop, but at most one ``fetch`` at a time per
  subscription. A broker belongs to the loop that opened it; ``fork`` gives another thread its own.
* **Errors.** Client exceptions are translated: ``ConnectionFailed`` (retryable), ``AccessDenied``, ``BrokerError``.
  After ``ConnectionFailed`` the next call reconnects by itself; group, script or table that vanished meanwhile are made
  anew. Every call has a deadline.
* **Cancellation** never leaves a connection out of step, and never loses a message.

A new driver subclasses ``penstock.testing.conformance.BrokerConformance`` and is done when that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

from .message import Delivery, Message
from .outcome import Outcome

R = TypeVar("R")

Retention: TypeAlias = Literal["interest", "workqueue", "limits", "keep"]

FOREVER = float("inf")


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker can do, as declared values. The documentation's table is made from them.

    ``max_delay``: the longest delay in seconds, 0 for none. ``ordered``: one consumer with one slot sees publish order.
    ``fanout``: several groups may each get every message of a destination. ``persistent``: survives a restart of the
    system. ``binary``: a body may be any bytes, else JSON text. ``idempotent``: ``Outgoing.once`` is honoured.
    ``retentions``: the ways it knows to say how long a message stays that every group has acked, the default first.
    ``shared``: several processes may work on it. ``several``: one ``fetch`` may take from several queues.
    ``keyed``: ``Subscription.keyed`` is honoured across all workers. ``own_leases``: each message has a lease of its own,
    which lapses by time and passes to any owner; without it ownership passes on when the owner leaves or dies (Kafka's
    partitions). ``counted``: ``Delivery.count`` outlives the owner, so that crashes are counted.
    ``stable_ids``: a message keeps the id that ``publish`` answered through delays and retries.
    ``backfill``: a group that joins late gets what the groups before it have not finished; without it, it begins with
    the next message published. ``atomic_settle``: every outcome is one step; without it a message may be there twice
    after a crash between the copy (of a retry, a dead letter, a delayed release) and the end of the original.
    ``max_batch``: most messages one ``fetch`` returns.
    ``max_body``: most bytes of one body.
    """

    max_delay: float = 0.0
    ordered: bool = False
    fanout: bool = False
    persistent: bool = False
    binary: bool = True
    idempotent: bool = False
    retentions: tuple[Retention, ...] = ("interest",)
    shared: bool = True
    several: bool = False
    keyed: bool = False
    own_leases: bool = True
    counted: bool = True
    stable_ids: bool = True
    backfill: bool = True
    atomic_settle: bool = True
    max_batch: int = 1000
    max_body: int = 512 * 1024 * 1024


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way to a destination.

    ``delay``: seconds before it may be fetched, by the system's clock where it has one.
    ``once``: seconds during which a second message with the same destination, type and key is not published again but
    answered with the first one's id; ``None`` publishes always. Needs ``message.key``.
    """

    destination: str
    message: Message
    delay: float = 0.0
    once: float | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Who reads what, and on which terms.

    ``source``: the stream or queue. ``group``: readers that share the work; each group sees every message where the
    broker has fan-out. ``lease``: seconds for which a fetched message belongs to its owner unless extended.
    ``start``: where a new group begins: at the first message kept, or with the next one published.
    ``delayed``: name of the structure that keeps this subscription's retries, where the broker lets one choose.
    ``queues``: what one fetch is to take from, in this order, where the broker can (``several``); by default ``source``,
    which otherwise is but the name of them all.
    ``keyed``: messages of one key are handed out one at a time, in publish order, whichever worker takes them: none
    while an earlier one of its key is waiting, leased, or due to be tried again. Settling the earlier one for good (ack,
    dead letter) lets the next one come. Messages without a key are free. Asked for only where the broker can (``keyed``).
    A delayed message has its place from the start where it lies among the others (SQL), else (Redis) when it is due.
    """

    source: str
    group: str = "default"
    lease: float = 30.0
    start: Literal["first", "next"] = "first"
    delayed: str | None = None
    queues: tuple[str, ...] = ()
    keyed: bool = False


class Settlement(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """A delivery and what becomes of it. A ``Retry`` in here always has its delay."""

    delivery: Delivery[R]
    outcome: Outcome


class Broker(Protocol[R]):
    """One message system. ``R`` is the driver's receipt: its own proof of a lease."""

    @property
    def capabilities(self) -> Capabilities:
        """What this broker can do. Known before ``open``; needs no I/O."""
        ...

    @property
    def url(self) -> str:
        """The address, password masked: for logs and people."""
        ...

    @property
    def identity(self) -> str:
        """This owner's name, unique per process start (``host:pid:random``). Shared by its forks."""
        ...

    async def open(self) -> None:
        """Connect and check that the system is usable. Idempotent, cheap when open, and possible again after ``close``.

        Blocks for at most the connect deadline. Raises ``ConnectionFailed``, ``AccessDenied``.
        """
        ...

    async def close(self) -> None:
        """Give back what was fetched and not settled (as ``Release``), leave the groups, disconnect. Idempotent.

        Safe before ``open`` and after a lost connection: then what could not be given back lapses with its lease.
        """
        ...

    def fork(self) -> Broker[R]:
        """A second broker on the same system with the same identity and no shared connection, for another thread.

        It may settle and extend deliveries that this one fetched. Its ``close`` only disconnects: leaving is for the
        original.
        """
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        """Put messages where they will be found; return their ids in order.

        Returns only when the system has them. Order is kept per destination. With ``once``, a duplicate gets the id
        of the first. Not idempotent otherwise: after ``ConnectionFailed`` the fate of the batch is unknown and the
        caller decides. Raises ``PublishError`` with the fate of each message when only some were refused.
        """
        ...

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[R]]:
        """Take up to ``limit`` messages under a lease; wait up to ``wait`` seconds for the first one.

        Creates the group (and what else is missing) on first use; with a ``limit`` of 0 it does only that. A new group
        that begins with the first message gets everything due that is still kept, for other groups or for none yet.
        Returns early with whatever there is, and an empty sequence when there is nothing. Cancelling it loses nothing: what was taken meanwhile is given back, at the
        latest by ``close``. A message that cannot be read comes as a delivery with ``defect``.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement[R]]) -> Sequence[Delivery[R]]:
        """Apply each outcome atomically; return the deliveries whose lease was lost (nothing was done for those).

        ``Retry``: written with ``attempt = delivery.attempt + 1`` (``message.attempt`` kept if ``counts`` is false),
        due after its delay. ``Release``: available after its delay with nothing counted. ``DeadLetter``: kept whole.
        Idempotent: settling again reports the delivery as lost. After ``ConnectionFailed`` call again with the same
        settlements: those already applied come back as lost.
        """
        ...

    async def extend(self, deliveries: Sequence[Delivery[R]], lease: float) -> Sequence[Delivery[R]]:
        """Renew the leases to ``lease`` seconds from now; return the deliveries whose lease was lost or settled."""
        ...


class Promoted(msgspec.Struct, frozen=True):
    """What ``promote_due`` did. ``next_due``: seconds until the next delayed message, ``None`` if there is none."""

    count: int
    next_due: float | None


@runtime_checkable
class SupportsSchedule(Protocol):
    """Keeps delayed messages aside and must be asked to move those that are due."""

    async def promote_due(self, destination: str, limit: int, *, delayed: str | None = None) -> Promoted:
        """Move up to ``limit`` due messages back to ``destination``, each atomically. Any number may run at once."""
        ...


@runtime_checkable
class SupportsReclaim(Protocol[R]):
    """Does not hand lapsed leases out by ``fetch`` and must be asked for them."""

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[R]]:
        """Take up to ``limit`` deliveries whose lease has lapsed or that were released; ``count`` tells how often.

        Only those handed over more than ``above`` times so far and, with ``below``, fewer than ``below`` times.
        Never touches what is alive. Acks ghosts (leased, but deleted from the system) away.
        ``Delivery.predecessor`` says whose lease it was.
        """
        ...


@runtime_checkable
class SupportsGhosts(Protocol):
    """Lets others delete messages that are leased or handed back, and notices."""

    async def ghosts(self, subscription: Subscription) -> int:
        """How many such messages were found gone, and acked away, since this was last asked. No I/O."""
        ...


@runtime_checkable
class SupportsTrim(Protocol):
    """Leaves things behind that somebody must sweep: dead owners, old entries."""

    async def trim(self, subscription: Subscription) -> int:
        """Remove owners that are long gone and hold nothing, and entries retention no longer asks for; count them.

        Never removes anything unread or leased.
        """
        ...


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process, as it reports itself. Times are seconds since the epoch, ``rss`` bytes.

    ``paused``: those of ``consumers`` that fetch nothing for now.
    """

    identity: str
    host: str
    pid: int
    started_at: float
    beat_at: float
    consumers: tuple[str, ...]
    concurrency: int
    busy: int
    quiet: bool
    rss: int
    version: str
    paused: tuple[str, ...] = ()


@runtime_checkable
class SupportsPresence(Protocol):
    """Keeps a list of living workers."""

    async def beat(self, presence: Presence, ttl: float) -> None:
        """Say that this worker lives, for ``ttl`` seconds."""
        ...

    async def leave(self, identity: str) -> None:
        """Take a worker off the list."""
        ...

    async def processes(self) -> Sequence[Presence]:
        """The workers that are alive."""
        ...


@runtime_checkable
class SupportsPause(Protocol):
    """Remembers which streams are paused, for every worker to see. It goes on taking and handing out messages."""

    async def pause(self, source: str) -> bool:
        """Ask all workers to fetch no more from ``source``; false if it was paused already. Idempotent."""
        ...

    async def resume(self, source: str) -> bool:
        """Let them go on; false if it was not paused. Idempotent."""
        ...

    async def paused(self) -> frozenset[str]:
        """The names of the streams that are paused."""
        ...


class GroupStats(msgspec.Struct, frozen=True, kw_only=True):
    """One group of one stream. ``lag``: messages not yet fetched, ``None`` if the system cannot say."""

    name: str
    leased: int
    lag: int | None
    owners: int


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one stream. ``size`` counts what is kept: waiting and leased; ``delayed`` includes retries."""

    source: str
    size: int
    delayed: int
    dead: int
    oldest_age: float | None
    groups: tuple[GroupStats, ...]


class DeadMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter. ``id`` names it in the dead-letter queue; ``raw`` is the entry when it could not be read.

    ``error``: exception class and text. ``died_at``: seconds since the epoch.
    """

    id: str
    message: Message
    reason: str
    error: str | None
    meta: Any
    group: str
    owner: str
    died_at: float | None
    raw: bytes | None = None


@runtime_checkable
class SupportsInspect(Protocol):
    """Lets itself be looked at and mended. The inspector and the command line use nothing else."""

    async def sources(self) -> Sequence[str]:
        """The names of the streams there are, sorted."""
        ...

    async def stats(self, source: str) -> StreamStats:
        """Sizes of one stream; zeros if it does not exist."""
        ...

    async def peek(self, source: str, limit: int) -> Sequence[Message]:
        """The oldest messages waiting or leased, changing nothing."""
        ...

    async def dead(self, source: str, limit: int, *, after: str | None = None) -> Sequence[DeadMessage]:
        """Dead letters, oldest first, beginning behind the one with id ``after``."""
        ...

    async def requeue_dead(self, source: str, ids: Sequence[str]) -> int:
        """Put dead letters back as fresh messages (attempt 0), each atomically; return how many were still there.

        On a stream with several groups every group sees it again. An unreadable one stays where it is.
        """
        ...

    async def purge_dead(self, source: str, ids: Sequence[str]) -> int:
        """Delete dead letters for good; return how many were still there."""
        ...

    async def purge(self, source: str) -> int:
        """Delete all waiting and delayed messages of ``source`` (not leased ones, not the dead); return how many."""
        ...


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """Can tell of server settings under which the guarantees do not hold."""

    async def diagnose(self) -> Sequence[Finding]:
        """Look at the server's settings, changing nothing."""
        ...


Level: TypeAlias = Literal["ok", "unknown", "warning", "danger"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the doctor has to say. ``level``: ``ok``, ``unknown`` if it may not look, ``warning`` or ``danger``."""

    level: Level
    subject: str
    detail: str
