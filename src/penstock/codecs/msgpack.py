"""MessagePack by msgspec: smaller than JSON, and holds bytes. For brokers whose bodies may be binary."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import DecodeError, EncodeError, ValidationError


class MsgpackCodec:
    """MessagePack, validated against the type on both sides."""

    def __init__(self, payload_type: Any = Any) -> None:
        self._type = payload_type
        self._decoder = msgspec.msgpack.Decoder(payload_type)
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, payload: Any) -> bytes:
        try:
            body = self._encoder.encode(payload)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise EncodeError(f"a payload of type {type(payload).__name__} cannot be written: {error}") from error
        self.decode(body)
        return body

    def decode(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            name = getattr(self._type, "__name__", self._type)
            raise ValidationError(f"the payload is not a valid {name}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the payload is not MessagePack: {error}; it begins with {body[:60]!r}") from error
