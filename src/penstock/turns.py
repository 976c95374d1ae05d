"""Several queues of a broker that takes from one at a time: looked into one after the other, then waited for together.

A look takes what there is, in the order asked for. Only when there is nothing anywhere are all of them waited for at
once, each with a fetch of its own; one that is still waiting when another has answered goes on waiting, and what it
brings comes with the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from msgspec.structs import replace

from .broker import Broker, Subscription
from .message import Delivery

Fetch: TypeAlias = Callable[[Subscription, int, float], Awaitable[Sequence[Delivery[Any]]]]
_Answer: TypeAlias = asyncio.Task[Sequence[Delivery[Any]]]


def each_queue(broker: Broker[Any], subscription: Subscription) -> list[Subscription]:
    """What must be asked for, one by one, to reach every queue of a subscription."""
    if not subscription.queues or broker.capabilities.several:
        return [subscription]
    return [_alone(subscription, queue) for queue in subscription.queues]


class Turns:
    """``fetch`` as the port's, for a subscription with ``queues``, by a ``fetch`` that takes from one."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: dict[str, _Answer] = {}
        self._empty: set[str] = set()  # waited for in vain, until just now: another look would find nothing
        self._taken: list[Delivery[Any]] = []

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
        """Up to ``limit`` messages, the first queues' first; what other queues have brought meanwhile comes on top.

        Cancelling it loses nothing: ``stop`` hands out what was taken.
        """
        await self._look(subscription, limit)
        if not self._taken and wait > 0:
            share = max(1, limit // len(subscription.queues))
            for queue in subscription.queues:
                if queue not in self._waiting:
                    asked = self._fetch(_alone(subscription, queue), share, wait)
                    self._waiting[queue] = asyncio.ensure_future(asked)
            await asyncio.wait(self._waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            self._collect(subscription.queues)
        taken, self._taken = self._taken, []
        return taken

    async def _look(self, subscription: Subscription, limit: int) -> None:
        for queue in self._waiting.keys() - set(subscription.queues):  # nobody asks for it any more
            self._waiting[queue].cancel()
        self._collect(subscription.queues)
        skip, self._empty = self._empty, set()
        for queue in subscription.queues:
            if len(self._taken) >= limit:
                return
            if queue not in self._waiting and queue not in skip:
                left = limit - len(self._taken)
                self._taken += await self._fetch(_alone(subscription, queue), left, 0.0)

    def _collect(self, queues: Sequence[str]) -> None:
        """Take the answers that are there. Raises what one of them raised, once all the others are taken."""
        failures: list[BaseException] = []
        for queue in (*queues, *(self._waiting.keys() - set(queues))):
            answer = self._waiting.get(queue)
            if answer is None or not answer.done():
                continue
            del self._waiting[queue]
            error = None if answer.cancelled() else answer.exception()
            if error is not None:
                failures.append(error)
            elif not answer.cancelled():
                self._taken += answer.result()
                if not answer.result():
                    self._empty.add(queue)
        if failures:
            raise failures[0]

    async def stop(self) -> Sequence[Delivery[Any]]:
        """Wait for nothing any more; what was taken and not returned yet."""
        answers = [*self._waiting.values()]
        self._waiting.clear()
        for answer in answers:
            answer.cancel()
        for came in await asyncio.gather(*answers, return_exceptions=True):
            if not isinstance(came, BaseException):
                self._taken += came
        taken, self._taken = self._taken, []
        return taken


def _alone(subscription: Subscription, queue: str) -> Subscription:
    return replace(subscription, source=queue, queues=())
