"""Where tests step in: what takes jobs at the moment that they would go to a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from ..errors import ConfigurationError
from .payload import Payload

Interceptor: TypeAlias = Callable[[Sequence[Payload]], Awaitable[None]]


class _Everywhere:
    """What holds in the whole process where nothing is said for the task."""

    interceptor: Interceptor | None = None


_here: ContextVar[tuple[Interceptor | None] | None] = ContextVar("penstock_job_interceptor", default=None)


def interceptor() -> Interceptor | None:
    """Who takes the jobs that are pushed here, if not the broker."""
    here = _here.get()
    return _Everywhere.interceptor if here is None else here[0]


def intercept_everywhere(by: Interceptor | None) -> None:
    """For the whole process; ``None``: nobody."""
    _Everywhere.interceptor = by


@contextmanager
def intercepting(by: Interceptor | None) -> Generator[None]:
    """For this task or thread and what it starts, within the block. Not to be nested."""
    if _here.get() is not None:
        raise ConfigurationError("testing modes of a block cannot be nested; leave the outer block first")
    token = _here.set((by,))
    try:
        yield
    finally:
        _here.reset(token)
