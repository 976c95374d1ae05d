"""Whether the body of an event is what its type promises.

``EventValidator`` knows a schema for each type: a msgspec Struct or any other type, a pydantic model, a JSON Schema as a
``dict``, or a function of the body. Anything with a ``validate(event_type, body)`` will do instead, a coroutine too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

import msgspec

from ..codec import Codec
from ..codecs import codec_for
from ..errors import ConfigurationError, DecodeError, MissingExtra, ValidationError
from ..pattern import check_type
from .canonical import canonical
from .handlers import ANY_BODY


class Validity(msgspec.Struct, frozen=True):
    """The answer of a validator."""

    valid: bool
    error: str = ""


VALID = Validity(valid=True)
Answer: TypeAlias = Validity | bool | str | Mapping[str, Any] | None
Schema: TypeAlias = Any


class Validator(Protocol):
    """Any object that judges bodies. ``None`` and ``True`` are good, a text says what is wrong."""

    def validate(self, event_type: str, body: Any) -> Answer | Awaitable[Answer]:
        """Judge a body."""
        ...


class EventValidator:
    """``schemas`` by event type. With ``strict`` a type that has none is invalid; else it is let through."""

    def __init__(self, schemas: Mapping[str, Schema] | None = None, *, strict: bool = False) -> None:
        self._strict = strict
        self._schemas: dict[str, Schema] = {}
        self._checks: dict[str, Callable[[Any, bytes], Answer | Awaitable[Answer]]] = {}
        for type_, schema in (schemas or {}).items():
            self.register(type_, schema)

    def register(self, event_type: str, schema: Schema) -> None:
        """Add a schema, or put it in the place of another."""
        check_type(event_type)
        self._schemas[event_type] = schema
        self._checks[event_type] = _check_of(schema)

    def schema(self, event_type: str) -> Schema | None:
        """The schema of a type, or ``None``."""
        return self._schemas.get(event_type)

    def validate(self, event_type: str, body: Any) -> Answer | Awaitable[Answer]:
        """Judge a body."""
        return self.judge(event_type, body, None)

    def judge(self, event_type: str, body: Any, text: bytes | None) -> Answer | Awaitable[Answer]:
        """The same for a body whose JSON text is at hand."""
        check = self._checks.get(event_type)
        if check is None:
            return f"No schema registered for event type: {event_type}" if self._strict else VALID
        return check(body, canonical(body) if text is None else text)


def check_validator(validator: Any) -> None:
    """Raise ``ConfigurationError`` for what cannot judge."""
    if validator is not None and not callable(getattr(validator, "validate", None)):
        raise ConfigurationError(
            f"a validator is an EventValidator or anything with validate(event_type, body), got {validator!r:.100}"
        )


async def ensure_valid(validator: Validator, event_type: str, body: Any, text: bytes | None = None) -> None:
    """Raise ``ValidationError`` for a body that does not fit."""
    if isinstance(validator, EventValidator):
        answer = validator.judge(event_type, body, text)
    else:
        answer = validator.validate(event_type, body)
    if inspect.isawaitable(answer):
        answer = await answer
    error = _error_in(answer)
    if error is not None:
        raise ValidationError(f"Invalid event body for type {event_type}: {error}")


def _error_in(answer: Any) -> str | None:
    """What is wrong, or ``None``."""
    if answer is None or answer is True or answer is VALID:
        return None
    if answer is False:
        return "it was refused"
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Validity):
        return None if answer.valid else answer.error or "it was refused"
    if isinstance(answer, Mapping):
        told = cast("Mapping[str, Any]", answer)
        if "valid" in told:
            return None if told["valid"] else str(told.get("error") or "it was refused")
    raise ConfigurationError(
        f"a validator answers None or True, False, a text with what is wrong, or Validity(valid, error); got {answer!r:.100}"
    )


def _check_of(schema: Schema) -> Callable[[Any, bytes], Answer | Awaitable[Answer]]:
    if isinstance(schema, dict):
        return _by_json_schema(cast("dict[str, Any]", schema))
    if callable(schema) and not isinstance(schema, type):
        function = cast("Callable[[Any], Answer | Awaitable[Answer]]", schema)
        return lambda body, _: function(body)
    codec: Codec[Any] = codec_for(schema)

    def check(_: Any, text: bytes) -> Answer:
        try:
            codec.decode(text)
        except (ValidationError, DecodeError) as error:
            return str(error)
        return VALID

    return check


def _by_json_schema(schema: dict[str, Any]) -> Callable[[Any, bytes], Answer]:
    try:
        library: Any = import_module("jsonschema")
    except ImportError as error:
        raise MissingExtra("jsonschema", "jsonschema") from error
    kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except library.SchemaError as error:
        raise ConfigurationError(f"this is no JSON Schema: {error.message}") from error
    ready = kind(schema)

    def check(_: Any, text: bytes) -> Answer:
        error = library.exceptions.best_match(ready.iter_errors(ANY_BODY.decode(text)))
        return VALID if error is None else f"{error.message} at {error.json_path}"

    return check
