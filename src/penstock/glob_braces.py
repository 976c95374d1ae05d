"""Braces of a pattern: ``{a,b}`` and ``{1..3}`` become one pattern for each alternative."""

from __future__ import annotations

import re

from .errors import ConfigurationError

MOST = 10_000  # patterns that one may stand for
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?")


def expand(pattern: str) -> list[str]:
    """The patterns without braces that this one stands for. Braces that list nothing are plain characters."""
    if "{" not in pattern:
        return [pattern]
    found = _expand(pattern)
    return found or [pattern]


def _expand(text: str) -> list[str]:
    at = _opening(text)
    if at is None:
        return [text]
    end = _closing(text, at)
    head, inner, tail = text[:at], text[at + 1 : end], text[end + 1 :]
    choices = _choices(inner)
    if choices is None:
        # No list: this brace is plain, what is inside of it may hold one
        return _limited([f"{head}{{{middle}}}{rest}" for middle in _expand(inner) for rest in _expand(tail)])
    return _limited([head + choice + rest for choice in choices for rest in _expand(tail)])


def _choices(inner: str) -> list[str] | None:
    listed = _split(inner)
    if len(listed) > 1:
        return [each for item in listed for each in _expand(item)]
    found = _RANGE.fullmatch(inner)
    if found is None:
        return None
    first, last, step = found.groups()
    if first.lstrip("-").isdigit() != last.lstrip("-").isdigit():
        return None
    return _numbers(first, last, step) if first.lstrip("-").isdigit() else _letters(first, last, step)


def _numbers(first: str, last: str, step: str | None) -> list[str]:
    begin, end = int(first), int(last)
    by = max(abs(int(step or 1)), 1)
    padded = any(re.fullmatch(r"-?0\d+", text) for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(begin, end + 1, by) if begin <= end else range(begin, end - 1, -by)
    if len(numbers) > MOST:
        raise ConfigurationError(
            f"the pattern's {{{first}..{last}}} stands for more than {MOST} texts; list what is meant"
        )
    return [f"{number:0{width}d}" if width else str(number) for number in numbers]


def _letters(first: str, last: str, step: str | None) -> list[str]:
    begin, end = ord(first), ord(last)
    by = max(abs(int(step or 1)), 1)
    codes = range(begin, end + 1, by) if begin <= end else range(begin, end - 1, -by)
    return ["" if chr(code) == "\\" else chr(code) for code in codes]


def _opening(text: str) -> int | None:
    """Where the first brace opens that is closed again."""
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == "{" and (at == 0 or text[at - 1] != "$") and _closing(text, at) > 0:
            return at
        at += 1
    return None


def _closing(text: str, opening: int) -> int:
    """Where the brace at ``opening`` is closed, or -1."""
    depth, at = 0, opening
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
        at += 1
    return -1


def _split(inner: str) -> list[str]:
    """At the commas that are in no brace of their own."""
    items, depth, start, at = list[str](), 0, 0, 0
    while at < len(inner):
        if inner[at] == "\\":
            at += 2
            continue
        depth += (inner[at] == "{") - (inner[at] == "}")
        if inner[at] == "," and depth == 0:
            items.append(inner[start:at])
            start = at + 1
        at += 1
    items.append(inner[start:])
    return items


def _limited(texts: list[str]) -> list[str]:
    if len(texts) > MOST:
        raise ConfigurationError(f"a pattern may stand for {MOST} texts, this one has {len(texts)}: use a wildcard")
    return texts
