"""Arguments that arrive as they were sent: JSON's own types and nothing that merely looks like one.

A tuple arrives as a list, a date as a text, a subclass without its class: better refused where it is sent than puzzled
over where it is run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, cast

from ..brokers.sidekiq.ruby_json import NESTING, dumps, encode_plain
from ..errors import ArgumentError

StrictArgs: TypeAlias = Literal["raise", "warn", "none"]

ROOM: Final = NESTING - 1  # the array of arguments lies within the payload

_ATOMS = frozenset({str, int, bool, NoneType})
_logger = logging.getLogger("penstock.sidekiq")


class _Unsafe(Exception):
    """Found one; carries it."""

    def __init__(self, value: object, problem: str) -> None:
        super().__init__(problem)
        self.value = value


def encoded(args: list[Any], payload: Mapping[str, Any], mode: StrictArgs) -> bytes:
    """The arguments of a payload as they travel. Raises ``ArgumentError`` for what JSON cannot hold.

    In mode ``raise`` also for what would arrive as something else; ``warn`` logs that.
    """
    try:
        if mode == "none" or _has_floats(args, ROOM):
            return dumps(args, ROOM)
        return encode_plain(args)
    except _Unsafe as unsafe:
        complaint = _complaint(payload, unsafe)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"the arguments of {_name(payload)} cannot be written as JSON: {error}") from error
    if mode == "raise":
        raise ArgumentError(complaint)
    _logger.warning(complaint)
    return encoded(args, payload, "none")


def _has_floats(items: Iterable[object], room: int) -> bool:
    """Whether there is a float somewhere. Raises ``_Unsafe`` at the first thing that is not JSON's own."""
    if not room:
        raise ValueError(f"nested more than {NESTING} deep, which Ruby does not read; send a flatter value")
    floats = False
    for item in items:
        kind = type(item)
        if kind in _ATOMS:
            continue
        if kind is list or kind is dict:
            floats |= _has_floats(_items(item), room - 1)
        elif kind is float and math.isfinite(cast("float", item)):
            floats = True
        else:
            raise _Unsafe(item, "no value that JSON has")
    return floats


def _items(container: object) -> Iterable[object]:
    """What is in a list, or in an object whose keys are texts."""
    if type(container) is list:
        items: list[object] = cast("Any", container)
        return items
    mapping: dict[object, object] = cast("Any", container)
    for key in mapping:
        if type(key) is not str:
            raise _Unsafe(key, "a key of an object, which must be a text")
    return mapping.values()


def _complaint(payload: Mapping[str, Any], unsafe: _Unsafe) -> str:
    kind = cast("type[Any]", type(unsafe.value))
    return (
        f"the arguments of {_name(payload)} must be of JSON's own types (str, int, float, bool, None, list, dict with"
        f" texts as keys), but {unsafe.value!r:.100} is a {kind.__module__}.{kind.__qualname__}: {unsafe}. Send what"
        ' it is made of, or make the client with strict_args="warn" or "none"'
    )


def _name(payload: Mapping[str, Any]) -> str:
    return str(payload.get("wrapped") or payload["class"])
