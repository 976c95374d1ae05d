"""A job with options of the moment: what ``HardJob.set(queue="low")`` returns.

Everything that enqueues a job is here, once to be awaited and once, under ``sync``, for code without a loop. ``P`` are
the parameters of ``perform``: wrong arguments are errors of the type checker, and at once at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec

from .errors import ArgumentError
from .job_arguments import Arguments
from .job_moment import Moment, moment
from .job_options import checked
from .job_route import Pusher, route

P = ParamSpec("P")

_TIMES = ("wait", "wait_until")


class _Order:
    """A class of jobs, options of this call, and how both become the item that a client takes."""

    __slots__ = ("arguments", "inline", "job", "options", "wait")

    def __init__(self, job: Any, arguments: Arguments, options: Mapping[str, Any]) -> None:
        self.job, self.arguments = job, arguments
        given = dict(options)
        waits = [given.pop(name) for name in _TIMES if name in given]
        if len(waits) > 1:
            raise ArgumentError("wait and wait_until are two ways to say one thing; give one of them")
        self.wait: Moment | None = waits[0] if waits else None
        self.inline = bool(given.pop("sync", False))
        self.options = checked(given)

    def given(self) -> dict[str, Any]:
        """All options, so that more can be said."""
        times = {} if self.wait is None else {"wait": self.wait}
        return {**self.options, **times, **({"sync": True} if self.inline else {})}

    def client(self) -> Pusher:
        pool: Pusher | None = self.options.get("pool") or getattr(self.job, "sidekiq_options", {}).get("pool")
        return pool if pool is not None else route()

    def at(self, client: Pusher) -> float | None:
        """When it was said to run, if it was; the past is at once."""
        return None if self.wait is None else moment(self.wait, client.now())

    def item(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], at: float | None) -> dict[str, Any]:
        item = {**self.options, "class": self.job, "args": self.arguments.listed(args, kwargs)}
        if at is not None:
            item["at"] = at
        return item

    def bulk(self, client: Pusher, jobs: Iterable[Sequence[Any]], options: Mapping[str, Any]) -> dict[str, Any]:
        items = {**self.options, **options, "class": self.job, "args": self.arguments.checked(jobs)}
        at = self.at(client)
        if at is not None:
            items.setdefault("at", at)
        return items


class SyncSetter(Generic[P]):
    """Enqueues from code without a loop: each call waits for its answer. Any thread may call."""

    __slots__ = ("_order",)

    def __init__(self, order: _Order) -> None:
        self._order = order

    def set(self, **options: Any) -> SyncSetter[P]:
        """The same job with more options."""
        order = self._order
        return SyncSetter(_Order(order.job, order.arguments, {**order.given(), **options}))

    def perform_async(self, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job; its id, once the broker has it, or ``None`` if a middleware did not let it pass."""
        client = self._order.client()
        return self._push(client, self._order.item(args, kwargs, self._order.at(client)))

    def perform_in(self, interval: Moment, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job to run after ``interval``, or at a moment if it is 1e9 or more."""
        client = self._order.client()
        return self._push(client, self._order.item(args, kwargs, moment(interval, client.now())))

    perform_at = perform_in

    def perform_bulk(self, jobs: Iterable[Sequence[Any]], **options: Any) -> list[str | None]:
        """Enqueue a job for each list of arguments."""
        client = self._order.client()
        return client.sync.push_bulk(self._order.bulk(client, jobs, options))

    def perform_inline(self, *args: P.args, **kwargs: P.kwargs) -> bool | None:
        """Run the job here and now, with all middleware."""
        client = self._order.client()
        return client.sync.perform_inline(self._order.item(args, kwargs, None))

    perform_sync = perform_inline

    def _push(self, client: Pusher, item: Mapping[str, Any]) -> str | None:
        if self._order.inline:
            client.sync.perform_inline(item)
            return None
        return client.sync.push(item)


class Setter(Generic[P]):
    """Enqueues a job with options of the moment. May be kept and used again.

    Beside the options of a class: ``wait`` or ``wait_until`` (as ``perform_in``), ``pool`` (a client to push with),
    ``sync=True`` (run it inline instead).
    """

    __slots__ = ("_order",)

    def __init__(self, job: Any, arguments: Arguments, options: Mapping[str, Any]) -> None:
        self._order = _Order(job, arguments, options)

    @property
    def sync(self) -> SyncSetter[P]:
        """The same for code without a loop."""
        return SyncSetter(self._order)

    def set(self, **options: Any) -> Setter[P]:
        """The same job with more options."""
        order = self._order
        return Setter(order.job, order.arguments, {**order.given(), **options})

    async def perform_async(self, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job; its id, once the broker has it, or ``None`` if a middleware did not let it pass."""
        client = self._order.client()
        return await self._push(client, self._order.item(args, kwargs, self._order.at(client)))

    async def perform_in(self, interval: Moment, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """Enqueue the job to run after ``interval``, or at a moment if it is 1e9 or more."""
        client = self._order.client()
        return await self._push(client, self._order.item(args, kwargs, moment(interval, client.now())))

    perform_at = perform_in

    async def perform_bulk(self, jobs: Iterable[Sequence[Any]], **options: Any) -> list[str | None]:
        """Enqueue a job for each list of arguments; options as of ``Client.push_bulk``."""
        client = self._order.client()
        return await client.push_bulk(self._order.bulk(client, jobs, options))

    async def perform_inline(self, *args: P.args, **kwargs: P.kwargs) -> bool | None:
        """Run the job here and now, with all middleware; ``None`` if a middleware did not let it pass."""
        client = self._order.client()
        return await client.perform_inline(self._order.item(args, kwargs, None))

    perform_sync = perform_inline

    async def _push(self, client: Pusher, item: Mapping[str, Any]) -> str | None:
        if self._order.inline:
            await client.perform_inline(item)
            return None
        return await client.push(item)
