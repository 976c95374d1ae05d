"""What may be said of a job beside its arguments, and the checks of it.

The options of a class are the beginning of each of its payloads: ``queue``, ``retry``, ``backtrace`` and so on, under
Sidekiq's names. Names that are not known here are kept and sent along, as Sidekiq does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast, runtime_checkable

from .errors import ArgumentError

DEFAULTS: Final[Mapping[str, Any]] = {"retry": True, "queue": "default"}
RELATIVE_MAX: Final = 1e9  # a number of seconds from here on is a moment, in 2001 or later; below it is an interval


@runtime_checkable
class HasOptions(Protocol):
    """A class of jobs, for whoever pushes them."""

    sidekiq_options: dict[str, Any]
    wire_name: str


def checked(options: Mapping[Any, Any]) -> dict[str, Any]:
    """The options, if each known one has a value that means something. Raises ``ArgumentError``."""
    for name, value in options.items():
        if not isinstance(name, str):
            raise ArgumentError(f"the names of options are texts, got {name!r}")
        check = _CHECKS.get(name)
        if check is not None and not check[0](value):
            raise ArgumentError(f"the option {name} is {check[1]}, got {value!r:.100}")
    return dict(options)


def _is_count(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, int) and value >= 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("Any", value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "queue": (_is_text, "the name of a queue, not empty"),
    "retry_queue": (_is_text, "the name of a queue, not empty"),
    "retry": (_is_count, "true, false or how often to try again, a whole number of 0 or more"),
    "backtrace": (_is_count, "true, false or how many lines to keep, a whole number of 0 or more"),
    "retry_for": (
        lambda value: _is_number(value) and 0 <= value <= RELATIVE_MAX,
        "for how many seconds to try again, a relative amount of time of at most 1e9",
    ),
    "dead": (lambda value: isinstance(value, bool), "true or false"),
    "tags": (_is_list_of_texts, "a list of texts"),
}
