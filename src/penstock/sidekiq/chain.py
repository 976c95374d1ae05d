"""Middleware of Sidekiq's kind: classes with ``call``, around each push (client) or each execution (server).

A client middleware is called with ``(job_class, payload, queue, broker, call_next)``, a server middleware with
``(job, payload, queue, call_next)``. ``await call_next()`` goes on; what it returns must be returned, or a payload in
its place; not to call it stops the job. A plain ``def call`` ends in ``return call_next()``. The first entry is the
outermost. ``penstock.pipeline`` is the engine's own kind, around bytes instead of jobs.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Entry:
    """A class of middleware, and what each instance of it is made with."""

    kind: type[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def make(self, config: Any) -> Any:
        """An instance for one call; it gets ``config`` if it has such an attribute."""
        made = self.kind(*self.args, **self.kwargs)
        if config is not None and hasattr(made, "config"):
            made.config = config
        return made


class Chain:
    """Entries in order. A class is in it once: to put it in again moves it. Changes are seen by the next call."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self._entries: tuple[Entry, ...] = ()

    def add(self, kind: type[Any], *args: Any, **kwargs: Any) -> None:
        """To the end: innermost."""
        entry = _entry(kind, args, kwargs)
        self._entries = (*self._without(kind), entry)

    use = add

    def prepend(self, kind: type[Any], *args: Any, **kwargs: Any) -> None:
        """To the beginning: outermost."""
        entry = _entry(kind, args, kwargs)
        self._entries = (entry, *self._without(kind))

    def insert_before(self, old: type[Any], kind: type[Any], *args: Any, **kwargs: Any) -> None:
        """Outside of ``old``; to the beginning if that is not there. One that is there already keeps its arguments."""
        self._insert(old, kind, args, kwargs, after=False)

    def insert_after(self, old: type[Any], kind: type[Any], *args: Any, **kwargs: Any) -> None:
        """Inside of ``old``; to the end if that is not there. One that is there already keeps its arguments."""
        self._insert(old, kind, args, kwargs, after=True)

    def remove(self, kind: type[Any]) -> None:
        """Take it out, if it is there."""
        self._entries = self._without(kind)

    def clear(self) -> None:
        """Take everything out."""
        self._entries = ()

    def copy(self, config: Any = None) -> Chain:
        """A chain with the same entries, to be changed by itself."""
        chain = Chain(self.config if config is None else config)
        chain._entries = self._entries
        return chain

    def __contains__(self, kind: object) -> bool:
        return any(kind is cast("object", entry.kind) for entry in self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    async def invoke(self, call: Callable[[], Awaitable[Any]], *values: Any) -> Any:
        """Go through all entries, each made anew and called with ``values``, to ``call``."""
        links = [entry.make(self.config) for entry in self._entries]
        return await _descend(links, 0, values, call)

    def _without(self, kind: type[Any]) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._entries if entry.kind is not kind)

    def _insert(
        self, old: type[Any], kind: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, after: bool
    ) -> None:
        held = [entry for entry in self._entries if entry.kind is kind]
        others = [entry for entry in self._entries if entry.kind is not kind]
        places = [place for place, entry in enumerate(others) if entry.kind is old]
        place = places[0] + after if places else (len(others) if after else 0)
        others.insert(place, held[0] if held else _entry(kind, args, kwargs))
        self._entries = tuple(others)


def _entry(kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
    if not isinstance(kind, type) or not callable(getattr(kind, "call", None)):
        raise ConfigurationError(
            f"a middleware is a class with a method call, made anew for each job, got {kind!r:.100}; give what it is"
            " made with behind it: chain.add(Tracing, sampler)"
        )
    return Entry(kind, args, kwargs)


async def _descend(links: list[Any], index: int, values: tuple[Any, ...], call: Callable[[], Awaitable[Any]]) -> Any:
    if index == len(links):
        return await call()
    result = links[index].call(*values, lambda: _descend(links, index + 1, values, call))
    return await result if inspect.isawaitable(result) else result
