"""The hash by which equal payloads are known: SHA-256 of the MessagePack that msgpackr writes, shared with TypeScript.

MessagePack leaves choices; these are msgpackr's. Whole numbers are the smallest integer that holds them, up to 32 bits,
and else a float, as every other number. An object is always a map with a length of 16 bits, its keys in JavaScript's
order: those that are array indexes first, ascending, then the others as they came.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from ..errors import EncodeError

_LARGEST_INDEX = 2**32 - 2


def fingerprint(body: bytes) -> str:
    """The hash of a JSON text's value, in hexadecimal."""
    try:
        value: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:  # half a character, which JavaScript allows
        value = json.loads(body)
    return hashlib.sha256(pack(value)).hexdigest()


def pack(value: Any) -> bytes:
    """MessagePack as msgpackr writes it. Raises ``EncodeError`` for an object of more than 65535 members."""
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _pack(value: Any, out: bytearray) -> None:
    if value is None:
        out += b"\xc0"
    elif value is True or value is False:
        out += b"\xc3" if value else b"\xc2"
    elif isinstance(value, int | float):
        out += _number(value)
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        out += _head(len(text), 0xA0, 32, 0xD9, 0xDA, 0xDB) + text
    elif isinstance(value, Mapping):
        _object(cast("Mapping[str, Any]", value), out)
    else:
        items = cast("Sequence[Any]", value)
        out += _head(len(items), 0x90, 16, None, 0xDC, 0xDD)
        for item in items:
            _pack(item, out)


def _object(members: Mapping[str, Any], out: bytearray) -> None:
    if len(members) > 0xFFFF:
        raise EncodeError(f"an object of a payload has at most 65535 members, got {len(members)}: give key= yourself")
    out += struct.pack(">BH", 0xDE, len(members))
    indexes = sorted((key for key in members if _is_index(key)), key=int)
    for key in (*indexes, *(key for key in members if not _is_index(key))):
        _pack(key, out)
        _pack(members[key], out)


def _is_index(key: str) -> bool:
    return len(key) < 11 and key.isascii() and key.isdigit() and str(int(key)) == key and int(key) <= _LARGEST_INDEX


def _number(number: float) -> bytes:
    if number == number // 1 and -(2**31) <= number < 2**32:
        whole = int(number)
        if whole >= 0:
            return _unsigned(whole)
        if whole >= -32:
            return struct.pack(">b", whole)
        for code, form, least in ((0xD0, ">Bb", -(2**7)), (0xD1, ">Bh", -(2**15))):
            if whole >= least:
                return struct.pack(form, code, whole)
        return struct.pack(">Bi", 0xD2, whole)
    try:
        number = float(number)
    except OverflowError:  # what JavaScript reads there
        number = float("inf") if number > 0 else float("-inf")
    return struct.pack(">Bd", 0xCB, number)


def _unsigned(whole: int) -> bytes:
    if whole < 0x80:
        return bytes([whole])
    for code, form, most in ((0xCC, ">BB", 0xFF), (0xCD, ">BH", 0xFFFF)):
        if whole <= most:
            return struct.pack(form, code, whole)
    return struct.pack(">BI", 0xCE, whole)


def _head(length: int, fixed: int, below: int, byte: int | None, short: int, long: int) -> bytes:
    """What stands before a text or a list of this length."""
    if length < below:
        return bytes([fixed + length])
    if byte is not None and length <= 0xFF:
        return bytes([byte, length])
    return struct.pack(">BH", short, length) if length <= 0xFFFF else struct.pack(">BI", long, length)
