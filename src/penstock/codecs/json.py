"""JSON by msgspec: Structs, dataclasses, TypedDicts, attrs classes, plain containers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import ConfigurationError, DecodeError, EncodeError, ValidationError

UNTYPED = (Any, dict, list, object)


class JsonCodec:
    """JSON text, validated against the type on both sides; ``Any``, ``dict`` and ``list`` take whatever JSON holds."""

    def __init__(self, payload_type: Any = Any) -> None:
        self._type = payload_type
        self._checks = payload_type not in UNTYPED
        try:
            self._decoder = msgspec.json.Decoder(Any if payload_type is object else payload_type)
        except TypeError as error:
            raise ConfigurationError(
                f"{payload_type!r} cannot be a payload type ({error}); use a msgspec.Struct, a pydantic model,"
                " a dataclass, a TypedDict or dict"
            ) from error
        self._encoder = msgspec.json.Encoder()

    def encode(self, payload: Any) -> bytes:
        try:
            body = self._encoder.encode(payload)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise EncodeError(
                f"a payload of type {type(payload).__name__} cannot be written as JSON: {error}"
            ) from error
        if self._checks:
            # A Struct or dataclass may hold anything at run time: what this side could not read is never sent.
            self.decode(body)
        return body

    def decode(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            name = getattr(self._type, "__name__", self._type)
            raise ValidationError(f"the payload is not a valid {name}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"the payload is not JSON: {error}; it begins with {body[:60]!r}") from error
