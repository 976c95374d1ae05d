"""JSON by pydantic v2: models, pydantic dataclasses, and containers of them."""

from __future__ import annotations

from typing import Any

from ..errors import DecodeError, EncodeError, MissingExtra, ValidationError

try:
    import pydantic
    import pydantic_core
except ImportError as error:
    raise MissingExtra("pydantic", "pydantic") from error


class PydanticCodec:
    """JSON text, validated by the model on both sides."""

    def __init__(self, payload_type: Any) -> None:
        self._name = getattr(payload_type, "__name__", str(payload_type))
        self._adapter = pydantic.TypeAdapter(payload_type)

    def encode(self, payload: Any) -> bytes:
        try:
            body = self._adapter.dump_json(payload, by_alias=True, warnings="error")
        except pydantic_core.PydanticSerializationError as error:
            text = " ".join(str(error).split())
            raise ValidationError(f"a payload of type {type(payload).__name__} is no {self._name}: {text}") from error
        except (RecursionError, ValueError) as error:
            raise EncodeError(f"a payload of type {type(payload).__name__} cannot be written: {error}") from error
        self.decode(body)
        return body

    def decode(self, body: bytes) -> Any:
        try:
            return self._adapter.validate_json(body)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":
                raise DecodeError(f"the payload is not JSON: {first['msg']}; it begins with {body[:60]!r}") from error
            path = ".".join(str(part) for part in first["loc"])
            raise ValidationError(f"the payload is not a valid {self._name}: {first['msg']} at {path!r}") from error
        except RecursionError as error:
            raise DecodeError("the payload is nested too deeply") from error
