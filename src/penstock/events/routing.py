"""Which transport and prefix an event gets, and which stream it goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from ..checks import one_of
from ..errors import ConfigurationError
from ..pattern import Pattern, check_type, matcher

Priority: TypeAlias = Literal["high", "normal", "low"]
StreamRule: TypeAlias = str | Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Route:
    """Events whose type is like ``pattern`` go by ``transport`` (the publisher's default if it names none).

    ``prefix`` stands before the type in the ``pattern`` that travels along; it does not choose the stream. ``priority``:
    routes of a higher one are looked at first; among equals the first in the list that matches wins.
    """

    pattern: Pattern
    transport: str | None = None
    prefix: str = ""
    priority: Priority = "normal"
    matches: Callable[[str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("priority", self.priority, get_args(Priority))
        object.__setattr__(self, "matches", matcher(self.pattern))


class Routes:
    """The routes of a publisher. Raises ``ConfigurationError`` if one of them, or the default, leads nowhere."""

    REMEMBERED = 1000

    def __init__(self, routes: Iterable[Route], transports: Mapping[str, Any], default: str | None) -> None:
        order = get_args(Priority)
        self._routes = sorted(routes, key=lambda route: order.index(route.priority))
        if default is None and len(transports) == 1:
            (default,) = transports
        for name in [default, *(route.transport for route in self._routes)]:
            if name is not None and name not in transports:
                raise ConfigurationError(f"no transport is named {name!r}; there are {', '.join(sorted(transports))}")
        if default is None:
            raise ConfigurationError(
                f"there are several transports ({', '.join(sorted(transports))}): say with default= which one takes"
                " events that no route matches"
            )
        self._default = default
        self._found: dict[str, tuple[str, str]] = {}

    def of(self, type_: str) -> tuple[str, str]:
        """Transport and prefix of a type. Raises ``ConfigurationError`` for what is none."""
        found = self._found.get(type_) if type(type_) is str else None
        if found is None:
            check_type(type_)
            route = next((each for each in self._routes if each.matches(type_)), None)
            found = (self._default, "") if route is None else (route.transport or self._default, route.prefix)
            if len(self._found) >= self.REMEMBERED:
                self._found.clear()
            self._found[type_] = found
        return found


def stream_of(type_: str, rule: StreamRule | None = None) -> str:
    """The one rule, for single events, batches and whatever is sent again: the first segment and ``-events``."""
    if rule is None:
        return f"{type_.partition('.')[0]}-events"
    name: Any = rule(type_) if callable(rule) else rule
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"stream= must name a stream for {type_!r}, got {name!r:.100}")
    return name
