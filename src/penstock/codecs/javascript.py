"""JSON as ``JSON.stringify`` writes it, byte for byte, so that what we share with JavaScript cannot be told apart.

Numbers: ``1.0`` is ``1``, ``1e20`` all its digits, ``1e-7`` as it stands, NaN and the infinities ``null``. Integers keep
all their digits, whatever JavaScript would make of them. A lone surrogate is an escape. The keys of an object stay in
their order.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

import msgspec

from ..errors import DecodeError, EncodeError
from .json import JsonCodec

_SURROGATE = re.compile("[\ud800-\udfff]")


class JavaScriptCodec(JsonCodec):
    """``JsonCodec`` that writes what JavaScript writes."""

    def encode(self, payload: Any) -> bytes:
        try:
            plain = _plain(payload)
        except RecursionError as error:
            raise EncodeError(
                "the payload is nested too deeply, or holds itself: send ids instead of objects"
            ) from error
        try:
            return super().encode(plain)
        except EncodeError:
            text = _with_surrogates(plain)
            if text is None:
                raise
            return text

    def decode(self, body: bytes) -> Any:
        try:
            return super().decode(body)
        except DecodeError:
            if self.typed or b"\\u" not in body:
                raise
            return _surrogates_allowed(body)


def js_number(number: float) -> str:
    """A float as JavaScript prints it."""
    if not math.isfinite(number):
        return "null"
    if number.is_integer() and abs(number) < 1e21:
        return str(int(number)) if abs(number) < 2**53 else _digits(number)
    mantissa, _, exponent = repr(number).partition("e")
    if exponent and -7 < int(exponent) < 0:
        sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
        return f"{sign}0.{'0' * (-int(exponent) - 1)}{digits.replace('.', '')}"
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}" if exponent else mantissa


def _digits(number: float) -> str:
    """Of a big whole number the digits that tell it from its neighbours, and noughts."""
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa.removesuffix(".0")
    sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, rest = digits.partition(".")
    return f"{sign}{whole}{rest if rest != '0' else ''}".ljust(len(sign) + int(exponent) + 1, "0")


def _plain(value: Any) -> Any:
    """The same value with its floats as texts ready to be written; the very same object where there are none."""
    if isinstance(value, float):
        return msgspec.Raw(js_number(value).encode())
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)  # type: ignore[redundant-cast] # pyright knows less
        changed = {key: _plain(item) for key, item in members.items()}
        return members if all(changed[key] is item for key, item in members.items()) else changed
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        found = [_plain(item) for item in items]
        return items if all(a is b for a, b in zip(found, items, strict=True)) else found
    return value


def _with_surrogates(value: Any) -> bytes | None:
    """The JSON of a value whose texts are no UTF-8, if that is all that is wrong with it."""
    numbers: dict[str, str] = {}

    def number(raw: Any) -> str:
        if not isinstance(raw, msgspec.Raw):
            raise TypeError(type(raw).__name__)
        mark = f"\udfff{len(numbers)}\udfff"
        numbers[mark] = bytes(raw).decode()
        return mark

    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=number, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    for mark, digits in numbers.items():
        text = text.replace(f'"{mark}"', digits, 1)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _surrogates_allowed(body: bytes) -> Any:
    """What JavaScript reads where a text has half a character, which no UTF-8 holds."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the payload is not JSON: {error}; it begins with {body[:60]!r}") from error
