"""Floats as the text that Ruby's json (2.10 and later) writes, digit for digit.

Its digits come from Grisu2 (Florian Loitsch, "Printing Floating-Point Numbers Quickly and Accurately with Integers",
2010), which in one of a thousand cases writes a digit more than need be, or another last one, than Python's ``repr``.
The layout is its own as well: ``0.00001`` but ``1e+16``. Any such text reads back as the same float.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

_MASK = (1 << 64) - 1
_FRACTION = (1 << 52) - 1
_HIDDEN = 1 << 52
_BIAS = 1023 + 52
_FIRST_POWER, _STEP, _POWERS = -348, 8, 87  # powers of ten that Grisu2 scales by, 64 bits of each
_ALPHA, _GAMMA = -60, -32  # the range of exponents that scaling aims at
_EXACT = 1e15  # integral floats below it are written as integers with .0


def float_text(value: float) -> str:
    """The text of a float. Raises ``ValueError`` for NaN and the infinities, which JSON has not."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number that JSON can hold; send None or a text")
    if value.is_integer() and abs(value) < _EXACT:
        return f"{value:.1f}"
    return ("-" if value < 0 else "") + _text(abs(value))


@lru_cache(maxsize=4096)
def _text(value: float) -> str:
    return _laid_out(*_grisu2(value))


def _laid_out(digits: str, k: int) -> str:
    """``digits`` times ten to the power of ``k``."""
    count = len(digits)
    exponent = k + count - 1
    if k < 0 and (k > -7 or abs(exponent) < 10):
        point = count + k
        return f"0.{'0' * -point}{digits}" if point <= 0 else f"{digits[:point]}.{digits[point:]}"
    fraction = f".{digits[1:]}" if count > 1 else ""
    return f"{digits[0]}{fraction}e{exponent:+d}"


def _power(index: int) -> tuple[int, int]:
    """A power of ten as fraction and exponent: 64 bits, rounded to the nearest."""
    k = _FIRST_POWER + index * _STEP
    above, below = 10 ** max(k, 0), 10 ** max(-k, 0)
    exponent = above.bit_length() - below.bit_length() - 64
    while True:
        numerator, denominator = above << max(-exponent, 0), below << max(exponent, 0)
        fraction = (2 * numerator + denominator) // (2 * denominator)
        if fraction > _MASK:
            exponent += 1
        elif fraction < 1 << 63:
            exponent -= 1
        else:
            return fraction, exponent


_TABLE = tuple(map(_power, range(_POWERS)))


def _scale(exponent: int) -> tuple[int, int, int]:
    """The power of ten that brings ``exponent`` into range, and which one it is."""
    index = (int(-(exponent + _POWERS) * 0.30102999566398114) - _FIRST_POWER) // _STEP
    while True:
        fraction, power = _TABLE[index]
        reached = exponent + power + 64
        if reached < _ALPHA:
            index += 1
        elif reached > _GAMMA:
            index -= 1
        else:
            return fraction, power, _FIRST_POWER + index * _STEP


def _product(a: int, b: int) -> int:
    """The upper 64 bits of a product, rounded."""
    return (a * b + (1 << 63)) >> 64


def _grisu2(value: float) -> tuple[str, int]:
    """Digits and the power of ten behind them, for a positive float."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    fraction, biased = bits & _FRACTION, bits >> 52
    exponent = biased - _BIAS if biased else 1 - _BIAS
    fraction |= _HIDDEN if biased else 0
    # The middle and both boundaries, with 64 bits and the exponent of the upper one
    upper, upper_exponent = (fraction << 1) + 1, exponent - 1
    shift = 64 - upper.bit_length()
    upper, upper_exponent = upper << shift, upper_exponent - shift
    closer = 2 if fraction == _HIDDEN else 1  # below a power of two floats lie closer together
    lower = ((fraction << closer) - 1) << (exponent - closer - upper_exponent)
    middle = fraction << (64 - fraction.bit_length())
    scale, scale_exponent, k = _scale(upper_exponent)
    top = _product(upper, scale) - 1
    bottom = _product(lower, scale) + 1
    digits, kappa = _digits(_product(middle, scale), top, top - bottom, -(upper_exponent + scale_exponent + 64))
    return digits, kappa - k


def _digits(middle: int, top: int, delta: int, shift: int) -> tuple[str, int]:
    """As many digits of ``top`` as are needed to stay within ``delta`` of it; and their power of ten."""
    one, away = 1 << shift, top - middle
    whole, part = top >> shift, top & (one - 1)
    digits = 0
    for kappa in range(9, -1, -1):
        digit, whole = divmod(whole, 10**kappa)
        digits = digits * 10 + digit
        rest = (whole << shift) + part
        if rest <= delta:
            return str(_nearer(digits, delta, rest, 10**kappa << shift, away)), kappa
    kappa, unit = 0, 1
    while True:
        part, delta, unit, kappa = part * 10, delta * 10, unit * 10, kappa - 1
        digits, part = digits * 10 + (part >> shift), part & (one - 1)
        if part < delta:
            return str(_nearer(digits, delta, part, one, away * unit)), kappa


def _nearer(digits: int, delta: int, rest: int, step: int, away: int) -> int:
    """The last digit lowered while that comes nearer to the middle."""
    while rest < away and delta - rest >= step and (rest + step < away or away - rest > rest + step - away):
        digits, rest = digits - 1, rest + step
    return digits
