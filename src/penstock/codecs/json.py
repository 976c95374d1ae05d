"""JSON by msgspec: Structs, dataclasses, TypedDicts, attrs classes, plain containers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import ConfigurationError, DecodeError, EncodeError, ValidationError

UNTYPED = (Any, object)  # whatever JSON holds
LOOSE = (dict, list)  # containers of whatever JSON holds: a look at the type is enough


class JsonCodec:
    """JSON text, validated against the type on both sides; ``Any`` takes whatever JSON holds.

    As in JavaScript, NaN and the infinities are written as ``null``: a type that has a ``float`` there refuses them.
    """

    def __init__(self, payload_type: Any = Any) -> None:
        self._type = payload_type
        self._loose: Any = payload_type if payload_type in LOOSE else None
        self._checks = payload_type not in UNTYPED + LOOSE
        try:
            kind: Any = Any if payload_type is object else payload_type
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        except TypeError as error:
            raise ConfigurationError(
                f"{payload_type!r} cannot be a payload type ({error}); use a msgspec.Struct, a pydantic model,"
                " a dataclass, a TypedDict or dict"
            ) from error
        self._encoder = msgspec.json.Encoder()

    @property
    def typed(self) -> bool:
        """Whether a payload is held against a type."""
        return self._checks

    def encode(self, payload: Any) -> bytes:
        if self._loose is not None and not isinstance(payload, self._loose):
            raise ValidationError(f"the payload is not a valid {self._loose.__name__}: got {type(payload).__name__}")
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
