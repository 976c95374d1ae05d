"""The way in: connections, and what one must know to change anything.

1. A job is addressed by its own bytes, as they were read: it is never looked for by writing its parsed form anew.
2. Whatever moves a job is one script on the server: it is at every moment in one place, and in no two.
3. A text that must change (``enqueued_at``, ``retry_count``) has its fields cut out and put in, the others stay.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from inspect import isawaitable
from typing import Any, Final, Self, TypeAlias

from ...brokers.sidekiq import SidekiqBroker, SidekiqOptions
from ...clients.opening import redis_client
from ...clients.redis import Arg, Command, RedisClient, Script
from ...clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger("penstock")

MOVE: Final = Script.load("penstock.brokers.lua", "sidekiq", "sidekiq_set_move")

Payload: TypeAlias = dict[str, Any]
Repush: TypeAlias = Callable[[Payload], Awaitable[Payload | None]]
DeathHandler: TypeAlias = Callable[[Payload, BaseException], Awaitable[None] | None]


class Data:
    """One Sidekiq database.

    ``repush`` is shown each job that is put into its queue again, and returns it or, to drop it, ``None``: the client
    middleware. ``death_handlers`` hear of jobs that are killed; what one of them raises is logged, no more.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        options: SidekiqOptions | None = None,
        clock: Clock = SYSTEM_CLOCK,
        repush: Repush | None = None,
        death_handlers: Iterable[DeathHandler] = (),
    ) -> None:
        self.client, self.clock, self.repush = client, clock, repush
        self.options = options or SidekiqOptions()
        self.death_handlers = list(death_handlers)

    @classmethod
    def from_url(cls, url: str, **given: Any) -> Self:
        """With connections of its own: ``sidekiq+redis://…``, or without the ``sidekiq+``. Raises ``InvalidURL``."""
        return cls(redis_client(url.removeprefix("sidekiq+")), **given)

    @classmethod
    def of(cls, broker: SidekiqBroker, **given: Any) -> Self:
        """What ``broker`` works on, by its connections and in its way of writing; ``given``: the rest."""
        return cls(broker.client, options=broker.options, repush=broker.repush, **given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        await self.client.close()

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to many commands, sent in one go. Raises the first error among them."""
        replies = await self.client.many(commands) if commands else []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def members(self, key: str) -> list[str]:
        """A set of names, in order."""
        return sorted(_text(name) for name in await self.client.call("SMEMBERS", key))

    async def move(self, actions: Sequence[Sequence[Arg]], *, trim: bool = False) -> list[bool]:
        """Do what sidekiq_set_move.lua says, to each job that is still there; whether it was."""
        args = [arg for action in actions for arg in action]
        limit = self.options.dead_max_jobs if trim else 0
        return [each == 1 for each in await self.client.run(MOVE, (), [limit, self.options.dead_timeout, *args])]

    async def died(self, payload: Payload, error: BaseException) -> None:
        """Tell the death handlers."""
        for handler in self.death_handlers:
            try:
                answer = handler(payload, error)
                if isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("a death handler failed for job %s", payload.get("jid"))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
