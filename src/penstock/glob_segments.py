"""One segment of a pattern, between slashes: a plain text, or an expression for what the wildcards in it match."""

from __future__ import annotations

import re

_ANY, _NO_DOT, _NO_DOTS = "[^/]*?", r"(?!\.)", r"(?!\.{1,2}$)"
_POSIX = {
    "ascii": "\\x00-\\x7f",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "A-Fa-f0-9",
}
_LETTERS = {"alnum": r"[^\W_]", "alpha": r"[^\W\d_]", "word": r"\w"}  # of any script


def segment(text: str) -> str | re.Pattern[str]:
    """The text that a name must be equal to, or the expression that it must match as a whole."""
    source, magic = _translate(text)
    if not magic:
        return re.compile(source) if "[" in text else re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
    if text and text.strip("*") == "":
        return re.compile(_NO_DOT + "[^/]+?", re.DOTALL)
    if text[0] in "*?[" or _is_group(text, 0):
        source = source if _begins_with_dot(text) else _NO_DOT + source
    elif text[0] == ".":
        source = _NO_DOTS + source
    return re.compile(source, re.DOTALL)


def _begins_with_dot(text: str) -> bool:
    """Whether a group at the beginning names a dot itself, and so allows it."""
    return _is_group(text, 0) and any(choice.startswith(".") for choice in _alternatives(text, 0)[0])


def _is_group(text: str, at: int) -> bool:
    return text[at] in "@+*?!" and text[at + 1 : at + 2] == "(" and _end_of_group(text, at) > 0


def _end_of_group(text: str, at: int) -> int:
    depth, at = 0, at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
        at += 1
    return -1


def _alternatives(text: str, at: int) -> tuple[list[str], int]:
    """The texts between the bars of the group at ``at``, and where it ends."""
    end = _end_of_group(text, at)
    inner, items, depth, start, i = text[at + 2 : end], list[str](), 0, 0, 0
    while i < len(inner):
        if inner[i] == "\\":
            i += 2
            continue
        depth += (inner[i] == "(") - (inner[i] == ")")
        if inner[i] == "|" and depth == 0:
            items.append(inner[start:i])
            start = i + 1
        i += 1
    return [*items, inner[start:]], end


def _translate(text: str) -> tuple[str, bool]:
    """The expression of a text, and whether there is a wildcard in it."""
    source, magic, at = "", False, 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            source, at = source + re.escape(text[at + 1]), at + 2
        elif _is_group(text, at):
            piece, at = _group(text, at)
            source, magic = source + piece, True
            if char == "!":
                return source, True
        elif char == "*":
            while text[at : at + 1] == "*" and not (at + 1 < len(text) and text[at + 1] == "("):
                at += 1
            source, magic = source + _ANY, True
        elif char == "?":
            source, magic, at = source + "[^/]", True, at + 1
        elif char == "[" and (found := _class(text, at)) is not None:
            piece, at, wild = found
            source, magic = source + piece, magic or wild
        else:
            source, at = source + re.escape(char), at + 1
    return source, magic


def _group(text: str, at: int) -> tuple[str, int]:
    """The expression of the group at ``at`` and where the text goes on; of a negated one with all that follows."""
    kind = text[at]
    items, end = _alternatives(text, at)
    inner = "|".join(_translate(item)[0] for item in items)
    if kind != "!":
        return f"(?:{inner}){'' if kind == '@' else kind}", end + 1
    rest = _translate(text[end + 1 :])[0]
    if items == [""]:
        return f"[^/]+?{rest}", len(text)
    return f"(?:(?!(?:{inner}){rest}$){_ANY}){rest}", len(text)


def _class(text: str, at: int) -> tuple[str, int, bool] | None:
    """The expression of the class at ``at``, where the text goes on, whether it is more than one character; or no class."""
    i, negated, items, letters = at + 1, False, list[str](), list[str]()
    if text[i : i + 1] in {"!", "^"}:
        i, negated = i + 1, True
    first, closed, pending = i, False, ""
    while i < len(text):
        char = text[i]
        if char == "]" and i > first:
            closed = True
            break
        if char == "[" and (name := re.match(r"\[:(\w+):\]", text[i:])) and name[1] in _POSIX | _LETTERS:
            (letters if name[1] in _LETTERS else items).append((_POSIX | _LETTERS)[name[1]])
            i += name.end()
            continue
        if char == "\\" and i + 1 < len(text):
            i += 1
            char = text[i]
        if text[i + 1 : i + 2] == "-" and text[i + 2 : i + 3] not in {"", "]"}:
            last = text[i + 2]
            if last >= char:
                items.append(f"{re.escape(char)}-{re.escape(last)}")
            i += 3
            continue
        pending = char
        items.append(re.escape(char))
        i += 1
    if not closed:
        return None
    if not negated and not letters and items == [re.escape(pending)]:
        return items[0], i + 1, False
    union = "|".join(([f"[{''.join(items)}]"] if items else []) + letters) or "(?!)"
    return f"(?!{union})[^/]" if negated else f"(?:{union})", i + 1, True
