"""Who is told of errors and of deaths. A handler that fails itself is reported, and harms nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, TypeAlias

from .job_retry import call_hook
from .payload import Payload

logger = logging.getLogger("penstock.sidekiq")

ErrorHandler: TypeAlias = Callable[..., Any]  # (error, context, config), or the first of these
DeathHandler: TypeAlias = Callable[..., Any]  # (payload, error), or the first of these


@dataclass(slots=True, kw_only=True)
class Handlers:
    """``errors``: called with the error, what was going on (``context``, and where known ``job``, ``queue``, ``jobstr``)
    and ``config``; without one, errors are logged. ``deaths``: called with the payload and the error of each job that
    is given up, kept or not. Both may be coroutine functions.
    """

    errors: list[ErrorHandler] = field(default_factory=list[ErrorHandler])
    deaths: list[DeathHandler] = field(default_factory=list[DeathHandler])
    config: Any = None

    async def report(self, error: BaseException, context: Mapping[str, Any]) -> None:
        """Tell the error handlers."""
        if not self.errors:
            log_error(error, context)
        for handler in list(self.errors):
            try:
                await _called(handler, error, context, self.config)
            except Exception:
                logger.exception("!!! an error handler failed with %r; it was to be told of %r", handler, error)

    async def died(self, payload: Payload, error: BaseException) -> None:
        """Tell the death handlers."""
        for handler in list(self.deaths):
            try:
                await _called(handler, payload, error)
            except Exception as broken:  # noqa: BLE001 a handler of the user's may raise anything
                await self.report(broken, {"context": "Error calling death handler", "job": payload})

    async def asked(self, hook: Callable[..., Any] | None, context: Mapping[str, Any], *arguments: Any) -> Any:
        """What a hook of a job class answers; ``None`` if there is none or it fails."""
        if hook is None:
            return None
        try:
            return await _called(hook, *arguments)
        except Exception as broken:  # noqa: BLE001 as above
            await self.report(broken, context)
            return None


def log_error(error: BaseException, context: Mapping[str, Any]) -> None:
    """What becomes of errors for which nobody has a handler."""
    text = f"{context.get('context', '')}: {type(error).__name__}: {_text(error)}"
    logger.info(text.removeprefix(": "), exc_info=error, extra={"context": dict(context)})


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 its own __str__ may raise anything
        return "(it cannot say what it is)"


async def _called(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it answers. One that exits, or lets a cancellation of its own escape, has failed like any other."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        answer = call_hook(call, *arguments)
        return await answer if isawaitable(answer) else answer
    except (SystemExit, asyncio.CancelledError) as error:
        if task is not None and task.cancelling() > before:
            raise  # somebody ends the task
        raise RuntimeError(f"{call!r:.200} raised {error!r}") from error
