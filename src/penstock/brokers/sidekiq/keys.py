"""Names of Sidekiq's keys, and of the few that are ours (``pq:``), which Ruby never looks at."""

from __future__ import annotations

QUEUES = "queues"
SCHEDULE, RETRY, DEAD = "schedule", "retry", "dead"
PROCESSES, PAUSED = "processes", "paused"
PROCESSED, FAILED = "stat:processed", "stat:failed"

OWNERS, INFLIGHT, CRASHES = "pq:procs", "pq:inflight:", "pq:recovered"


def queue(name: str) -> str:
    """The list of a queue: pushed on its left, taken from its right."""
    return f"queue:{name}"


def once(queue_name: str, type_: str, key: str) -> str:
    """What keeps a message that is to be published once from being published again."""
    return f"pq:once:{queue_name}:{type_}:{key}"


def work(identity: str) -> str:
    """What a process works on."""
    return f"{identity}:work"


def old_work(identity: str) -> str:
    """The same, as Ruby up to 6.4.1 has it."""
    return f"{identity}:workers"


def signals(identity: str) -> str:
    """What a process is asked to do."""
    return f"{identity}-signals"
