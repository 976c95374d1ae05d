"""A clean end for several things at once: publishers, consumers, workers, brokers, whatever can be stopped or closed.

1. Whatever has ``quiet`` takes in nothing new from here on, all of them at once: readiness turns red.
2. Each is stopped or closed, in the order given and one after the other, so that what comes later is still there for
   what comes first: consumers before the publishers that their handlers use, publishers before their broker.
3. One that fails, or takes longer than its limit, keeps nobody else from being closed. What went wrong is raised at the
   end, all of it; if the block itself failed, that is raised, and what went wrong here is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .checks import positive
from .errors import ConfigurationError

logger = logging.getLogger("penstock")

LIMIT = 40.0  # seconds for each: a worker's drain of 25 s and what it may take after that
FAREWELL = 1.0  # seconds that something cancelled at its limit may take to notice
ENDS = ("stop", "close", "aclose")


@asynccontextmanager
async def stopping(*parts: Any, limit: float = LIMIT) -> AsyncGenerator[None]:
    """Close ``parts`` when the block ends, in this order, each within ``limit`` seconds, and all of them whatever happens.

    A part is anything with ``stop``, ``close`` or ``aclose``, coroutine functions or plain ones; the first that it has
    is called. Raises an ``ExceptionGroup`` of what went wrong. Raises ``ConfigurationError`` at the beginning for what
    cannot be closed.
    """
    positive("limit, in seconds,", limit)
    for part in parts:
        _end_of(part)
    try:
        yield
    except BaseException:
        _log(await _close(parts, limit))
        raise
    if errors := await _close(parts, limit):
        raise ExceptionGroup("not everything was closed cleanly", errors)


async def _close(parts: Sequence[Any], limit: float) -> list[Exception]:
    """Do 1 and 2; what went wrong. A cancellation is a wish to hurry: it ends one wait, and is raised at the end."""
    errors, cancelled = list[Exception](), None
    quiets = [part.quiet for part in parts if hasattr(part, "quiet")]
    steps: list[tuple[str, Callable[[], Any]]] = [("quiet", lambda: _at_once(quiets))] if quiets else []
    steps += [(f"{type(part).__name__}.{_end_of(part).__name__}", _end_of(part)) for part in parts]
    for name, step in steps:
        try:
            await _within(limit, name, step)
        except asyncio.CancelledError as wish:
            cancelled = wish
        except Exception as error:  # noqa: BLE001 whatever one of them says, the others are closed
            errors.append(error)
    if cancelled is not None:
        _log(errors)
        raise cancelled
    return errors


def _log(errors: Sequence[Exception]) -> None:
    for error in errors:
        logger.error("while stopping: %s", error, exc_info=error)


async def _at_once(calls: Sequence[Callable[[], Any]]) -> None:
    results = await asyncio.gather(*map(_called, calls), return_exceptions=True)
    errors = [each for each in results if isinstance(each, Exception)]
    if errors:
        raise errors[0] if len(errors) == 1 else ExceptionGroup("some could not be quieted", errors)


async def _within(limit: float, name: str, call: Callable[[], Any]) -> None:
    """Call it, in a task of its own: what does not heed its cancellation is left behind."""
    task = asyncio.create_task(_called(call), name=f"stopping {name}")
    try:
        await asyncio.wait((task,), timeout=limit)
    except asyncio.CancelledError:
        await _abandoned(task)
        raise
    if not task.done():
        await _abandoned(task)
        raise TimeoutError(f"{name}() has not ended within {limit:g} s and was left behind")
    task.result()


async def _abandoned(task: asyncio.Task[None]) -> None:
    task.cancel()
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    await asyncio.wait((task,), timeout=FAREWELL)


async def _called(call: Callable[[], Any]) -> None:
    result = call()
    if inspect.isawaitable(result):
        await result


def _end_of(part: Any) -> Callable[[], Any]:
    for name in ENDS:
        end: Callable[[], Any] | None = getattr(part, name, None)
        if callable(end):
            return end
    raise ConfigurationError(f"expected something with stop() or close(), got {part!r:.100}")
