"""JSON byte for byte as Ruby's ``JSON.generate`` writes it, and read as strictly as Ruby's parser does.

Ruby finds a job in a set by writing the parsed job anew and comparing the texts: one byte that differs, and its Web UI
doubles the job instead of moving it. Most values are written by msgspec, whose text is the same; those with floats are
written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from types import NoneType
from typing import Any, Final, cast

import msgspec

from .ruby_floats import float_text

NESTING: Final = 100  # containers in containers that Ruby reads and writes

_BLANK = re.compile(rb"[ \t\r\n]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ATOMS = frozenset({str, int, bool, NoneType})
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def dumps(value: object, nesting: int = NESTING) -> bytes:
    """The text of a value. Raises ``ValueError`` or ``TypeError`` for what JSON, or Ruby's reader, has no room for.

    ``nesting``: how deep containers may lie in each other. Values that JSON has no type for are written as msgspec
    writes them: tuples and sets as arrays, dates as texts, dataclasses as objects.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None or _is_plain(value, nesting):
        return _encode(value)
    return "".join(_pieces(value, nesting)).encode()


def check_depth(text: bytes) -> None:
    """Raise ``ValueError`` for an object or array that lies deeper than Ruby reads. The text is JSON."""
    if len(text) > 2 * NESTING and text.count(b"[") + text.count(b"{") > NESTING:
        loads(text)


def loads(text: bytes | str) -> Any:
    """The value of a text. Raises ``ValueError`` for what is no JSON, or lies deeper than Ruby reads.

    The last of several equal keys wins, as in Ruby.
    """
    try:
        value = _decode(text)
    except RecursionError as error:
        raise _too_deep(NESTING) from error
    brackets = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if brackets > NESTING:
        _measure(value)
    return value


def retold(text: bytes) -> bytes:
    """A text of JSON as Ruby would write it after reading it: without blanks, each string in its one form.

    Numbers stay as they are: how Ruby writes a float depends on its release.
    """
    if _BLANK.search(text):
        text = msgspec.json.format(text, indent=-1)
    return _STRING.sub(lambda found: _encode(_decode(found[0])), text) if b"\\" in text else text


def encode_plain(value: Any) -> bytes:
    """``dumps`` for a value that is known to be made of texts, integers, booleans and nulls: nothing is checked."""
    return _encode(value)


def _is_plain(value: object, room: int) -> bool:
    """Whether msgspec writes it as Ruby does. Looks no further than the first thing that it does not."""
    kind = type(value)
    if kind is list:
        items = cast("list[Any]", value)
    elif kind is dict:
        mapping = cast("dict[Any, Any]", value)
        if not all(type(key) is str for key in mapping):
            return False
        items = list(mapping.values())
    else:
        return kind in _ATOMS
    if not room:
        raise _too_deep(NESTING)
    return _ATOMS.issuperset(map(type, items)) or all(_is_plain(item, room - 1) for item in items)


def _pieces(value: object, room: int) -> Iterator[str]:
    """The text of a value in pieces."""
    kind = type(value)
    if kind is float:
        yield float_text(cast("float", value))
    elif kind is list or kind is dict:
        if not room:
            raise _too_deep(NESTING)
        if kind is list:
            yield from _array(cast("list[Any]", value), room - 1)
        else:
            yield from _object(cast("dict[Any, Any]", value), room - 1)
    elif kind in _ATOMS:
        yield _encode(value).decode()
    else:
        yield from _pieces(_builtin(value), room)


def _array(items: list[Any], room: int) -> Iterator[str]:
    yield "["
    for index, item in enumerate(items):
        if index:
            yield ","
        yield from _pieces(item, room)
    yield "]"


def _object(items: dict[Any, Any], room: int) -> Iterator[str]:
    yield "{"
    for index, (key, item) in enumerate(items.items()):
        if index:
            yield ","
        name = key if isinstance(key, str) else _name(key)
        yield from chain((_encode(name).decode(), ":"), _pieces(item, room))
    yield "}"


def _name(key: Any) -> str:
    """A key that is no text, as one."""
    ((name, _),) = msgspec.to_builtins({key: None}, str_keys=True).items()
    return cast("str", name)


def _builtin(value: object) -> Any:
    """A value of another type as one that JSON has."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, dict):
        return {**cast("Any", value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [*cast("list[Any]", value)]
    return msgspec.to_builtins(value, str_keys=True)


def _measure(value: object, room: int = NESTING) -> None:
    """Raise ``ValueError`` if containers lie too deep in each other."""
    if not isinstance(value, list | dict):
        return
    if not room:
        raise _too_deep(NESTING)
    items = cast("Any", value)
    for item in items.values() if isinstance(value, dict) else items:
        _measure(item, room - 1)


def _too_deep(limit: int) -> ValueError:
    return ValueError(f"nested more than {limit} deep, which Ruby does not read; send a flatter value")
