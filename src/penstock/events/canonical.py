"""JSON exactly as JavaScript's ``JSON.stringify`` writes it, so that a hash of it is the same in both languages.

msgspec writes the same but for numbers with a fraction or an exponent, keys that look like indices, which JavaScript
puts first, and halves of characters. Whatever may have one of these is looked at; only what has one is written here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ..errors import EncodeError

_SUSPECT = re.compile(rb'(?:^|":|[\[,])-?[0-9]+[.eE]|"(?:0|[1-9][0-9]{0,9})":')
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_LAST_INDEX = 2**32 - 2
_HALF = re.compile("[\ud800-\udfff]")


def canonical(value: Any) -> bytes:
    """The text. Raises ``EncodeError`` for what is no JSON."""
    try:
        text = _encode(value)
        if _same(value):
            return text
        if _SUSPECT.search(text) is None:
            return text
        plain = msgspec.json.decode(text)
        return _written(plain).encode() if _differs(plain) else text
    except UnicodeEncodeError:
        return _written(msgspec.to_builtins(value, str_keys=True)).encode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise EncodeError(f"a body of type {type(value).__name__} cannot be written as JSON: {error}") from error


def _model(value: Any) -> Any:
    """What msgspec does not know: a pydantic model, as the JSON it says it is."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return dump(mode="json", by_alias=True)


_encode = msgspec.json.Encoder(enc_hook=_model).encode


def _same(value: Any) -> bool:
    """Whether both write it alike, as is quickly seen of plain values; of others nothing is said."""
    kind = cast("type[object]", type(value))
    if kind is str or kind is int or kind is bool or value is None:
        return True
    if kind is dict:
        for name, member in cast("dict[Any, Any]", value).items():
            if type(name) is not str or "0" <= name[:1] <= "9" or not _same(member):
                return False
        return True
    return kind is list and all(map(_same, cast("list[Any]", value)))


def _differs(value: Any) -> bool:
    """Whether JavaScript writes it in another way."""
    if isinstance(value, float):
        return True
    if isinstance(value, list | tuple):
        return any(_differs(each) for each in cast("Sequence[Any]", value))
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return any(_index(name) is not None or _differs(each) for name, each in members.items())
    return False


def _index(name: str) -> int | None:
    if _INDEX.fullmatch(name) is None:
        return None
    number = int(name)
    return number if number <= _LAST_INDEX else None


def _written(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        first = sorted((index, name) for name in members if (index := _index(name)) is not None)
        names = [name for _, name in first] + [name for name in members if _index(name) is None]
        return f"{{{','.join(f'{_text(name)}:{_written(members[name])}' for name in names)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, cast('list[Any]', value)))}]"
    return json.dumps(value)


def _text(value: str) -> str:
    whole = value.encode("utf-16-le", "surrogatepass").decode(
        "utf-16-le", "surrogatepass"
    )  # two halves are a character
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(whole, ensure_ascii=False))


def number(value: float) -> str:
    """ECMAScript's Number → String: the shortest digits, an exponent below 1e-6 and from 1e21 on."""
    if not math.isfinite(value):
        return "null"
    if value == 0:
        return "0"
    sign, mantissa = ("-" if value < 0 else ""), repr(abs(value))
    mantissa, _, exponent = mantissa.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))  # digits before the point
    digits = digits.rstrip("0")
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"
