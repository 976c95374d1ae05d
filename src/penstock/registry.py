"""Which handler runs which message type, and how it is called.

A handler is ``async def handle(payload)`` or ``async def handle(payload, context)``; a plain function runs in a thread.
What its signature asks for is found out once, here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .codec import Codec
from .context import Context
from .errors import ConfigurationError
from .message import Message
from .outcome import Outcome

Handler: TypeAlias = (
    Callable[[Any], Awaitable[Outcome | None]]
    | Callable[[Any, Context], Awaitable[Outcome | None]]
    | Callable[[Any], Outcome | None]
    | Callable[[Any, Context], Outcome | None]
)


@dataclass(frozen=True, slots=True)
class Route:
    """A handler ready to be called. ``threaded``: a plain function, to be run off the event loop."""

    call: Callable[..., Any]
    codec: Codec[Any]
    wants_context: bool
    threaded: bool


class Registry:
    """Handlers by message type; one may be there for every other type."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._default: Route | None = None

    def add(self, handler: Handler, codec: Codec[Any], types: Iterable[str] | None = None) -> None:
        """Register ``handler`` for ``types`` (a type and its former names), or for every type not named elsewhere."""
        route = Route(handler, codec, wants_two(handler), not is_async(handler))
        if types is None:
            if self._default is not None:
                raise ConfigurationError("there is already a handler for every type; name the types of the second one")
            self._default = route
            return
        for name in types:
            if name in self._routes:
                raise ConfigurationError(f"there is already a handler for type {name!r}")
            self._routes[name] = route

    def resolve(self, type_: str) -> Route | None:
        """The handler of a type, or ``None``."""
        return self._routes.get(type_, self._default)

    def route(self, message: Message) -> Route | None:
        """The handler of a message, or ``None``. A programming model may go by more than its type."""
        return self._routes.get(message.type, self._default)

    @property
    def types(self) -> tuple[str, ...]:
        """The types named, sorted; ``*`` stands for every other."""
        return (*sorted(self._routes), *(("*",) if self._default else ()))

    @property
    def threaded(self) -> bool:
        """Whether any handler needs threads."""
        routes = [*self._routes.values(), *([self._default] if self._default else [])]
        return any(route.threaded for route in routes)


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine, as far as one can see: functions, methods, partials, callable objects.

    What a decorator wraps says nothing of the wrapper, so nothing is unwrapped.
    """
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 a callable object


def wants_two(handler: Callable[..., Any]) -> bool:
    """True for two positional parameters, false for one."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"a handler must be a function of (payload) or (payload, context), got {handler!r}"
        ) from error
    required = [
        p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} and p.default is p.empty
    ]
    extra = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if extra or len(required) not in {1, 2}:
        raise ConfigurationError(
            f"a handler takes (payload) or (payload, context); {getattr(handler, '__qualname__', handler)!r}"
            f" takes {[p.name for p in parameters]}"
        )
    return len(required) == 2
