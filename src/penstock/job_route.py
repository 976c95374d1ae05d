"""Where jobs go: the client that ``perform_async`` and its like push with.

One client is the default of the process; ``via`` puts another in its place within a block, for this task or thread.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, cast

from .errors import ArgumentError, ConfigurationError


class SyncPusher(Protocol):
    """What pushes jobs from code without a loop."""

    def push(self, item: Mapping[str, Any]) -> str | None: ...

    def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]: ...

    def perform_inline(self, item: Mapping[str, Any]) -> bool | None: ...


class Pusher(Protocol):
    """What pushes jobs: ``penstock.sidekiq.Client``, or something of your own.

    An item is a payload in the making: ``class`` (a class or a name), ``args``, and options.
    """

    async def push(self, item: Mapping[str, Any]) -> str | None:
        """The jid; ``None`` if a middleware did not let it pass."""
        ...

    async def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]:
        """One jid for each list of arguments in ``args``."""
        ...

    async def perform_inline(self, item: Mapping[str, Any]) -> bool | None:
        """Run it here and now."""
        ...

    def now(self) -> float:
        """Seconds since the epoch, by the clock that jobs are scheduled with."""
        ...

    @property
    def sync(self) -> SyncPusher:
        """The same for code without a loop."""
        ...


class _Default:
    """What there is once for each process."""

    client: Pusher | None = None


_here: ContextVar[Pusher | None] = ContextVar("penstock_job_client", default=None)


def install(client: Pusher | None) -> None:
    """Push with ``client`` wherever nothing else is said; ``None`` takes it away."""
    _Default.client = client


def installed() -> Pusher | None:
    """The client to push with here, if there is one."""
    return _here.get() or _Default.client


def route() -> Pusher:
    """The client to push with here. Raises ``ConfigurationError`` if there is none."""
    client = installed()
    if client is None:
        raise ConfigurationError(
            "no client to push jobs with; once, at the start of the program, say"
            " penstock.sidekiq.Client(open_broker('redis://localhost:6379')).install()"
        )
    return client


@contextmanager
def via(client: Pusher) -> Generator[None]:
    """Push with ``client`` within the block, in this task or thread, whatever happens in it."""
    if cast("Pusher | None", client) is None:
        raise ArgumentError("via needs a client, got None")
    token = _here.set(client)
    try:
        yield
    finally:
        _here.reset(token)
