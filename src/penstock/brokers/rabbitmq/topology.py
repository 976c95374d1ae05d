"""Exchanges and queues, declared when they are first needed and again after they may have gone."""

from __future__ import annotations

from typing import Any

from pamqp import commands as spec

from . import names
from .channel import BatchChannel
from .link import Line, translated
from .options import RabbitmqOptions

_ENDLESS = 1_000_000_000  # handings-over: where looking must never bury anything (RabbitMQ 4 would after 20)
_MORE: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


def _onward(exchange: str, key: str | None = None) -> dict[str, Any]:
    """Dead-lettering that waits for the confirm of the next queue."""
    onward: dict[str, Any] = {"x-dead-letter-exchange": exchange, "x-dead-letter-strategy": "at-least-once"}
    return onward if key is None else onward | {"x-dead-letter-routing-key": key}


class Topology:
    """What this process has declared on one server. ``forget`` when the server may have lost it."""

    def __init__(self, line: Line, options: RabbitmqOptions) -> None:
        self._line, self._options = line, options
        self._channel: BatchChannel | None = None
        self._known: set[tuple[str, ...]] = set()

    def forget(self) -> None:
        self._known.clear()

    async def call(self, frame: Any, what: str) -> Any:
        """One method on the channel for such things."""
        if self._channel is None or not self._channel.alive:
            self._channel = await self._line.channel(_unasked)
        async with translated(what, self._line):
            return await self._channel.call(frame, self._options.timeout)

    async def exchange(self) -> None:
        """The exchange that messages are published to, and where those go that no queue takes."""
        if not self._new("exchange"):
            return
        await self._exchange(names.UNROUTED, "direct")
        more = {"alternate-exchange": names.UNROUTED}
        await self._exchange(self._options.exchange, self._options.exchange_type, more)
        self._known.add(("exchange",))

    async def backlog(self, source: str) -> None:
        """Where messages wait while a source has no group."""
        if not self._new("backlog", source):
            return
        await self.exchange()
        queue = names.beside(source, "backlog")
        await self._queue(queue, {**_MORE, "x-delivery-limit": _ENDLESS})
        await self._bind(queue, names.UNROUTED, source)
        self._known.add(("backlog", source))

    async def dead(self, source: str) -> None:
        """Where dead letters are kept."""
        if not self._new("dead", source):
            return
        await self._queue(names.beside(source, "dead"), {**_MORE, "x-delivery-limit": _ENDLESS})
        self._known.add(("dead", source))

    async def group(self, source: str, group: str) -> None:
        """A group's queue, bound to the exchange and to the end of the ladder."""
        if not self._new("group", source, group):
            return
        await self.backlog(source)
        await self.dead(source)
        queue, options = names.group_queue(source, group), self._options
        more = {**_MORE, **_onward("", names.beside(source, "dead")), "x-delivery-limit": options.delivery_limit}
        await self._queue(queue, more)
        match = {"x-match": "all", "penstock-source": source} if options.exchange_type == "headers" else None
        await self._bind(queue, options.exchange, source, match)
        await self._exchange(names.END, "topic")
        await self._bind(queue, names.END, names.end_pattern(source, group))
        self._known.add(("group", source, group))

    async def held(self, source: str, group: str, owner: str, ttl: float) -> str:
        """A worker's own queue for what it holds for long. What it leaves there goes back to the group by itself."""
        queue = f"{names.group_queue(source, group)}@@held-{owner}"
        more = {**_MORE, **_onward("", names.group_queue(source, group)), "x-delivery-limit": _ENDLESS}
        await self._queue(queue, {**more, "x-message-ttl": round(ttl * 1000), "x-expires": round(ttl * 1000) * 1000})
        return queue

    async def ladder(self, source: str, steps: list[int]) -> None:
        """The steps that a delayed message takes, and all exchanges below."""
        if self._new("due", source):
            await self.backlog(source)
            due = names.beside(source, "due")
            await self._queue(due, {**_MORE, **_onward(self._options.exchange, source), "x-message-ttl": 0})
            await self._exchange(names.END, "topic")
            await self._bind(due, names.END, names.end_pattern(source, names.DUE))
            self._known.add(("due", source))
        for step in range(steps[0] + 1 if steps else 0):
            await self._step(step)
        for step in steps:
            if self._new("step", source, str(step)):
                queue = names.step_queue(source, step)
                ticks = 2 ** min(step, names.BITS - 1)
                onward = _onward(names.step_exchange(step - 1))
                await self._queue(queue, {**_MORE, **onward, "x-message-ttl": round(ticks * names.TICK * 1000)})
                await self._bind(queue, names.step_exchange(step), names.step_pattern(step, source))
                self._known.add(("step", source, str(step)))

    async def _step(self, step: int) -> None:
        if not self._new("ladder", str(step)):
            return
        await self._exchange(names.step_exchange(step), "topic")
        if step < names.BITS:
            what = f"exchange {names.step_exchange(step)!r}"
            below = names.step_exchange(step - 1)
            frame = spec.Exchange.Bind(
                destination=below, source=names.step_exchange(step), routing_key=names.pass_pattern(step)
            )
            await self.call(frame, what)
        self._known.add(("ladder", str(step)))

    def steps(self, source: str) -> set[str]:
        """The queues of the ladder that are known here."""
        return {names.step_queue(source, int(what[2])) for what in self._known if what[:2] == ("step", source)}

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue that exists."""
        answer = await self.call(spec.Queue.Declare(queue=queue, passive=True), f"queue {queue!r}")
        return int(answer.message_count)

    def _new(self, *what: str) -> bool:
        return what not in self._known

    async def _queue(self, queue: str, arguments: dict[str, Any]) -> None:
        frame = spec.Queue.Declare(queue=queue, durable=True, arguments=arguments)
        await self.call(frame, f"queue {queue!r}")

    async def _exchange(self, name: str, kind: str, arguments: dict[str, Any] | None = None) -> None:
        frame = spec.Exchange.Declare(exchange=name, exchange_type=kind, durable=True, arguments=arguments)
        await self.call(frame, f"exchange {name!r}")

    async def _bind(self, queue: str, exchange: str, key: str, arguments: dict[str, Any] | None = None) -> None:
        frame = spec.Queue.Bind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments)
        await self.call(frame, f"queue {queue!r}")


def _unasked(_: object) -> None:
    """Nothing is delivered here."""
