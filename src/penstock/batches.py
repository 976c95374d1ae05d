"""Handlers of many messages at once: ``async def handle(items: list[T])``, with an outcome for each.

What must not reach a handler is sorted out first, one by one, and does not show in the list. ``None`` acks everything; a
list says for each item what becomes of it, in the order of the items: an outcome, ``None`` for done, or an exception,
which goes to the retry policy with that item's own attempt. An exception that is raised does so for every item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from .checks import at_least_one, not_negative
from .context import Context, enter
from .deadlines import Watch, limit
from .errors import WrongReturn
from .executor import Executor, cancelled_from_outside
from .outcome import ACK, DeadLetter, Outcome
from .registry import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How many messages a handler gets at once. ``size``: at most; ``wait``: seconds that the first one waits for more."""

    size: int = 100
    wait: float = 0.05

    def __post_init__(self) -> None:
        at_least_one("size, the messages of one batch,", self.size)
        not_negative("wait, in seconds,", self.wait)


class BatchExecutor(Executor):
    """Turns the deliveries of one batch into as many outcomes."""

    async def execute_all(self, route: Route, payloads: list[Any], contexts: list[Context]) -> list[Outcome]:
        """One outcome for each. Raises nothing but ``CancelledError`` when the slot itself is cancelled."""
        enter(contexts[0] if len(contexts) == 1 else None)
        try:
            result = await self._run_all(route, payloads, contexts)
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            return [self._failed(context, error) for context in contexts]
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 whatever a handler raises is the policy's: a panic, an exit
            return [self._failed(context, error) for context in contexts]
        return [ACK] * len(contexts) if result is None else self._accept_all(contexts, result)

    async def _run_all(self, route: Route, payloads: list[Any], contexts: list[Context]) -> Any:
        """Call the handler, under the shortest of the deadlines."""
        arguments = (payloads, contexts) if route.wants_context else (payloads,)
        limits = [limit(self.timeout, context.headers) for context in contexts]
        seconds = min((each for each in limits if each is not None), default=None)
        if seconds is None:
            return await self._called(route, arguments)
        task = None if route.threaded else asyncio.current_task()
        with Watch(self.deadlines, seconds, tuple(contexts), task):
            return await self._called(route, arguments)

    def _accept_all(self, contexts: Sequence[Context], result: Any) -> list[Outcome]:
        if not isinstance(result, list | tuple) or len(cast("list[Any]", result)) != len(contexts):
            met = (
                f"{len(cast('list[Any]', result))} of them"
                if isinstance(result, list | tuple)
                else type(result).__name__
            )
            text = (
                f"the batch handler of {contexts[0].type!r} returned {met}; expected None, or a list with one outcome"
                f" (or None, or an exception) for each of its {len(contexts)} items"
            )
            return [DeadLetter("wrongReturn", WrongReturn(text)) for _ in contexts]
        return [self._one(context, item) for context, item in zip(contexts, cast("list[Any]", result), strict=True)]

    def _one(self, context: Context, item: Any) -> Outcome:
        if item is None:
            return ACK
        return self._failed(context, item) if isinstance(item, BaseException) else self._accept(context, item)
