"""Who is compared, how each is set up, and what it promises in that setup: the facts that the tables print."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BARE = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One library. ``requires``: what pip is asked for; none means the environment that measures.

    ``settings`` and ``delivery`` are read by people: what was set, and what becomes of a job when a worker is killed.
    """

    name: str
    title: str
    requires: tuple[str, ...] = ()
    distributions: tuple[str, ...]
    handler: str
    bulk: str
    settings: str
    delivery: str

    @property
    def adapter(self) -> str:
        return f"with_{self.name}"

    @property
    def constraints(self) -> Path:
        return HERE / "constraints" / f"{self.name}.txt"


PEERS = (
    Peer(
        name=BARE,
        title="bare redis-py loop",
        distributions=("redis", "hiredis", "uvloop"),
        handler="async",
        bulk="pipeline of 1000 XADD",
        settings="a stream, reads of 200, XACK and XDEL of a whole read in one pipeline, uvloop",
        delivery="ack late, in batches; no lease, no retry, nobody recovers what a killed process had read",
    ),
    Peer(
        name="penstock",
        title="penstock",
        distributions=("penstock", "redis", "hiredis", "uvloop"),
        handler="async",
        bulk="send_many",
        settings="`penstock worker`, 100 slots, otherwise as it comes; uvloop",
        delivery="ack late; leases are renewed, and another worker takes over a killed one's jobs; done jobs are deleted",
    ),
    Peer(
        name="celery",
        title="Celery",
        requires=("celery[redis]", "hiredis"),
        distributions=("celery", "kombu", "redis", "hiredis"),
        handler="sync",
        bulk="none: `apply_async` in a loop on one producer",
        settings="pool solo (one process), prefetch 100, no results, no events, no gossip, mingle and heartbeat",
        delivery="ack early (its default): a job that runs when the worker is killed is lost; fetched ones come back "
        "after the visibility timeout of an hour",
    ),
    Peer(
        name="rq",
        title="RQ",
        requires=("rq", "hiredis"),
        distributions=("rq", "redis", "hiredis"),
        handler="sync",
        bulk="enqueue_many",
        settings="SimpleWorker (no fork for each job), results not kept",
        delivery="the running job is registered; one whose worker was killed ends among the failed jobs",
    ),
    Peer(
        name="dramatiq",
        title="Dramatiq",
        requires=("dramatiq[redis]", "hiredis"),
        distributions=("dramatiq", "redis", "hiredis"),
        handler="sync",
        bulk="none: `send` in a loop",
        settings="one process of 2 threads, prefetch 200, no results",
        delivery="ack late; jobs of a killed worker are requeued when its heartbeat is a minute old",
    ),
    Peer(
        name="arq",
        title="arq",
        requires=("arq", "hiredis", "uvloop"),
        distributions=("arq", "redis", "hiredis", "uvloop"),
        handler="async",
        bulk="none: `enqueue_job` 50 at once",
        settings="100 jobs at once, queue polled every 10 ms (default 500 ms), results not kept, uvloop",
        delivery="removed late; a killed worker's jobs run again when their in-progress key has expired (job timeout)",
    ),
    Peer(
        name="taskiq",
        title="Taskiq",
        requires=("taskiq", "taskiq-redis", "hiredis", "uvloop", "orjson"),
        distributions=("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop"),
        handler="async",
        bulk="none: `kiq` 50 at once",
        settings="RedisStreamBroker, reads of 200, 100 tasks at once, orjson, no result backend, uvloop",
        delivery="ack late; reclaimed after ten idle minutes; acked entries stay in the stream (no maxlen set)",
    ),
    Peer(
        name="saq",
        title="SAQ",
        requires=("saq[redis,hiredis]", "uvloop", "typing_extensions"),  # the last one it imports but does not require
        distributions=("saq", "redis", "hiredis", "uvloop"),
        handler="async",
        bulk="none: `enqueue` in a gather",
        settings="20 jobs at once, results not kept (ttl -1), uvloop",
        delivery="removed late; a sweeper ends or requeues jobs that ran beyond their timeout",
    ),
    Peer(
        name="streaq",
        title="streaQ",
        requires=("streaq", "uvloop"),
        distributions=("streaq", "coredis", "uvloop"),
        handler="async",
        bulk="enqueue_many",
        settings="16 tasks at once (its default), results not kept, JSON, uvloop",
        delivery="ack late; idle entries are reclaimed after a minute",
    ),
    Peer(
        name="huey",
        title="Huey",
        requires=("huey", "redis", "hiredis"),
        distributions=("huey", "redis", "hiredis"),
        handler="sync",
        bulk="none: calls in a loop",
        settings="RedisHuey, blocking pops, one thread, no results, no periodic tasks",
        delivery="at most once: a job is popped before it runs and lost if the worker is killed",
    ),
    Peer(
        name="faststream",
        title="FastStream",
        requires=("faststream[redis]", "hiredis", "uvloop"),
        distributions=("faststream", "redis", "hiredis", "uvloop"),
        handler="async",
        bulk="`publish` into a pipeline of 1000",
        settings="Redis Streams, a consumer group read 200 at a time, no dependency injection, no logger, uvloop",
        delivery="ack late; nobody reclaims unless a second subscriber is set up for it; acked entries stay in the stream",
    ),
)


def choose(names: list[str] | None) -> list[Peer]:
    """Those named, in the order of the catalog; always with the bare loop, which the others are measured by."""
    if not names:
        return list(PEERS)
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        known = ", ".join(peer.name for peer in PEERS)
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {known}")
    return [peer for peer in PEERS if peer.name in names or peer.name == BARE]
