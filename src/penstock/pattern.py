"""Patterns of event types: the one matcher that routes and subscriptions share.

A type is made of segments between dots. In a pattern ``*`` as the last segment stands for one or more of them, ``*``
elsewhere for exactly one, and ``*`` alone for everything. Anchored at both ends, case-sensitive. A compiled regular
expression is searched for, as JavaScript's ``test`` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from .errors import ConfigurationError

Pattern: TypeAlias = str | re.Pattern[str]


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Whether a type is one of the pattern's. Raises ``ConfigurationError`` for what is no pattern."""
    if isinstance(pattern, re.Pattern):
        if not isinstance(cast("object", pattern.pattern), str):
            raise ConfigurationError(
                f"types are texts, so that no expression of bytes finds them; got {pattern!r:.100}"
            )
        search = pattern.search
        return lambda type_: search(type_) is not None
    check_pattern(pattern)
    if pattern == "*":
        return lambda _: True
    if "*" not in pattern:
        return pattern.__eq__
    *segments, last = pattern.split(".")
    parts = ["[^.]+" if each == "*" else re.escape(each) for each in segments]
    parts.append(".+" if last == "*" else re.escape(last))
    fits = re.compile(r"\.".join(parts), re.DOTALL).fullmatch
    return lambda type_: fits(type_) is not None


def is_exact(pattern: Pattern) -> bool:
    """Whether it names one type."""
    return isinstance(pattern, str) and "*" not in pattern


def check_pattern(pattern: Any) -> None:
    """A pattern, or a type: segments with something in them, ``*`` only as a whole one."""
    if not isinstance(pattern, str):
        raise ConfigurationError(
            f"a pattern of types is a text such as 'user.*' or a compiled regular expression, got {pattern!r:.100}"
        )
    segments = pattern.split(".")
    if not all(segments) or any("*" in each and each != "*" for each in segments):
        raise ConfigurationError(
            f"a type is made of segments such as 'user.created', and * stands for a whole one; got {pattern!r}. For"
            " anything else give a compiled regular expression"
        )


def check_type(type_: Any) -> str:
    """A type that can be published. Raises ``ConfigurationError``."""
    if isinstance(type_, str) and "*" in type_:
        raise ConfigurationError(f"an event has one type, and {type_!r} is a pattern")
    check_pattern(type_)
    return cast("str", type_)
