"""Payload to bytes and back. Framing of headers belongs to the driver, not here."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Codec(Protocol[T]):
    """Bound to one payload type once, used for every message. Pure: no I/O, safe from any thread."""

    def encode(self, payload: T) -> bytes:
        """Bytes that ``decode`` reads back.

        Raises ``EncodeError`` for what cannot be written, ``ValidationError`` for what is not of the declared type.
        """
        ...

    def decode(self, body: bytes) -> T:
        """The payload. Raises ``DecodeError`` for unreadable bytes, ``ValidationError`` for a wrong shape."""
        ...
