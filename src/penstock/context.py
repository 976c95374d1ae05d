"""What a handler may know of the job it is running, and what its log lines carry.

``current()`` gives the context of the running job from anywhere below the handler, threads included.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from .errors import HandlerTimeout, LostLease, UnsupportedFeature
from .outcome import ACK, Ack, DeadLetter, Retry


class UnitOfWork(Protocol):
    """One message's part in a transaction: see ``penstock.effects``."""

    written: bool
    committed: bool

    async def ack_in(self, connection: Any) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[Any]: ...

    def undone(self) -> None: ...


class Context(msgspec.Struct, kw_only=True, eq=False):
    """The running job, as its handler sees it.

    ``worker`` is the identity of the process that runs it. ``attempt`` counts earlier executions (0 on the first);
    ``max_attempts`` is the policy's limit of executions.
    ``lease_lost`` turns true when the lease has passed to another worker: what the handler does from then on is done
    twice, so a long handler should look at it before it causes an effect. ``stopping`` turns true when the worker
    wants to stop and would be glad of an early end. ``timed_out`` turns true at the end of the job's timeout: a
    coroutine is cancelled then, a plain function in a thread has to look. All may be read from any thread.
    """

    id: str
    type: str
    stream: str
    group: str
    worker: str
    attempt: int
    max_attempts: int | None
    key: str | None
    headers: Mapping[str, Any]
    enqueued_at: float | None
    lease_lost: bool = False
    stopping: bool = False
    timed_out: bool = False
    unit: UnitOfWork | None = None

    def check(self) -> None:
        """Raise ``HandlerTimeout`` if the time is over, ``LostLease`` if the message is another worker's by now.

        For plain functions, which nobody can interrupt: call it now and then, where it is a good moment to end.
        """
        if self.timed_out:
            raise HandlerTimeout
        if self.lease_lost:
            raise LostLease

    async def ack_in(self, connection: Any) -> None:
        """Acknowledge this message in your own transaction on the broker's database: exactly-once effects.

        ``connection``: SQLAlchemy's ``AsyncSession``, ``AsyncConnection``, ``Session`` or ``Connection``. Do it last,
        commit, and return ``None``. Raises ``LostLease`` if another worker has the message by now: then roll back.
        ``UnsupportedFeature`` where the broker is no SQL database, and in batch handlers.
        """
        await self._unit().ack_in(connection)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction on the broker's database that ends with the acknowledgement of this message.

        ``async with context.transaction() as connection:`` gives an ``AsyncConnection``; what is written through it and
        the acknowledgement are committed together when the block ends, or not at all. Raises as ``ack_in`` does.
        """
        return self._unit().transaction()

    def _unit(self) -> UnitOfWork:
        if self.unit is None:
            raise UnsupportedFeature(
                "a handler can share the transaction of its acknowledgement only on a SQL broker and one message at a"
                " time; elsewhere use middleware.Deduplicate"
            )
        return self.unit

    @staticmethod
    def ack() -> Ack:
        """The outcome "done"; the same as returning ``None``."""
        return ACK

    @staticmethod
    def retry(delay: float | None = None, *, error: BaseException | None = None, counts: bool = True) -> Retry:
        """The outcome "again in ``delay`` seconds"."""
        return Retry(delay, error, counts)

    @staticmethod
    def dead_letter(reason: str, *, error: BaseException | None = None, meta: Any | UnsetType = UNSET) -> DeadLetter:
        """The outcome "given up"."""
        return DeadLetter(reason, error, meta)

    def fields(self) -> dict[str, Any]:
        """The fields that every log line about this job carries."""
        return {"stream": self.stream, "type": self.type, "id": self.id, "attempt": self.attempt}


_current: ContextVar[Context | None] = ContextVar("penstock_job", default=None)


def current() -> Context | None:
    """The context of the job that runs here, or ``None`` outside a handler."""
    return _current.get()


# Bound once: the engine calls it for every message.
enter = _current.set
