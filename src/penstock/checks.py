"""Checks of what users configure: each error says what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from .errors import ConfigurationError


def positive(name: str, value: Any) -> None:
    """A number of seconds or the like, more than 0."""
    if not _is_number(value) or not value > 0:
        raise ConfigurationError(f"{name} is a number and more than 0, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    """A number, 0 or more; infinity is one."""
    if not _is_number(value) or not value >= 0:
        raise ConfigurationError(f"{name} is a number and not negative, got {value!r}")


def finite(name: str, seconds: float) -> None:
    """A number of seconds that has an end."""
    if math.isinf(seconds):
        raise ConfigurationError(f"{name} is a number of seconds; leave it out for none, got {seconds}")


def at_least_one(name: str, value: Any) -> None:
    """A count."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is a whole number and at least 1, got {value!r}")


def one_of(name: str, value: Any, legal: Collection[str | bool]) -> None:
    """One of a few words."""
    if value not in legal:
        raise ConfigurationError(f"{name} is one of {', '.join(map(repr, legal))}, got {value!r}")


def history_free(what: str, retention: Any) -> None:
    """A retention for a broker in which a message is gone once every group has acked it."""
    if retention in {"limits", "keep"}:
        raise ConfigurationError(
            f"{what} keeps nothing that every group has acked, so retention={retention!r} cannot be had; use"
            f" 'interest' or 'workqueue', or a redis:// or valkey:// broker for a stream with a history"
        )
    one_of("retention", retention, ("interest", "workqueue"))


def sole_group(source: str, group: str, others: Collection[str]) -> None:
    """The only group of a work queue."""
    if others:
        raise ConfigurationError(
            f"{source!r} is a work queue and belongs to group {min(others)!r}: {group!r} cannot join. Read as that"
            f" group, or open every broker with retention='interest'"
        )


def known(what: str, given: Collection[str], legal: Collection[str]) -> None:
    """Names of options that exist."""
    if wrong := [name for name in given if name not in legal]:
        raise ConfigurationError(f"{what} has no option {', '.join(wrong)}; there are {', '.join(sorted(legal))}")


def instance(name: str, value: Any, kind: type, remedy: str = "") -> None:
    """A value of a class of ours."""
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} is a {kind.__name__}, got {value!r:.100}{remedy and '; '}{remedy}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
