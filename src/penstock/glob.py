r"""Patterns of channel names, with the meaning that minimatch 10 gives them.

``*`` is any run without ``/`` (it crosses dots), ``?`` one character, ``[a-z]`` one of a class, ``{a,b}`` and ``{1..3}``
alternatives, ``@(a|b) +(…) *(…) ?(…) !(…)`` groups, ``**`` as a whole segment any number of segments. ``\`` takes a
character's meaning away. A wildcard at the beginning of a segment does not match a dot there. A leading ``!`` negates the
whole, also before a group; a pattern that begins with ``#`` matches nothing. Case counts; the empty pattern matches the
empty name.

A pattern is compiled once. What minimatch's regular expressions would match by UTF-16 units (``?`` and half an emoji) is
matched by characters here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from .errors import ConfigurationError
from .glob_braces import expand
from .glob_segments import segment

Part: TypeAlias = "str | re.Pattern[str] | None"  # a text to be equal to, an expression, or (None) any segments

LONGEST = 65_536  # characters of one pattern, as in minimatch


class Glob:
    """One pattern, compiled."""

    __slots__ = ("_never", "_sets", "negated", "pattern")

    def __init__(self, pattern: str) -> None:
        if len(pattern) > LONGEST:
            raise ConfigurationError(f"a pattern has at most {LONGEST} characters, got {len(pattern)}")
        self.pattern, self.negated = pattern, False
        self._never = pattern.startswith("#")
        rest = pattern
        while rest.startswith("!"):
            rest, self.negated = rest[1:], not self.negated
        self._sets: tuple[tuple[Part, ...], ...] = tuple(_parts(each) for each in expand(rest))

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"

    def matches(self, name: str) -> bool:
        """Whether a channel of this name belongs to the pattern."""
        if self._never:
            return False
        if not self.pattern:
            return not name
        segments = re.split("/+", name)
        if any(_match(segments, parts) for parts in self._sets):
            return not self.negated
        return self.negated


@lru_cache(maxsize=4096)
def glob(pattern: str) -> Glob:
    """The pattern, compiled once."""
    return Glob(pattern)


def _parts(pattern: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for text in re.split("/+", pattern):
        if text == "**":
            if not parts or parts[-1] is not None:
                parts.append(None)
        elif text == ".." and parts and isinstance(parts[-1], str) and parts[-1] not in {"", ".", ".."}:
            parts.pop()
        else:
            parts.append(segment(text))
    return tuple(parts) or ("",)


def _match(names: Sequence[str], parts: Sequence[Part]) -> bool:
    for at, part in enumerate(parts):
        if at >= len(names):
            return False
        if part is None:
            return _any_depth(names[at:], parts[at + 1 :])
        if not (part == names[at] if isinstance(part, str) else part.fullmatch(names[at])):
            return False
    # A name may end in a slash where the pattern does not
    return len(names) == len(parts) or (len(names) == len(parts) + 1 and names[-1] == "")


def _any_depth(names: Sequence[str], rest: Sequence[Part]) -> bool:
    """Whether ``rest`` matches behind any number of segments, none of which may begin with a dot."""
    if not rest:
        return not any(name.startswith(".") for name in names)
    for at, name in enumerate(names):
        if _match(names[at:], rest):
            return True
        if name.startswith("."):
            return False
    return False
