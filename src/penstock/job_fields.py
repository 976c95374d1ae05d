"""Jobs that carry their own data: ``SendMail("a@x")`` with ``handle()``, as opposed to ``perform("a@x")``.

What such a job is made of goes over the wire as a JSON object, and a worker makes an equal job of it. A class that
declares fields is a dataclass, and what comes is held against its types; one with an ``__init__`` of its own is any
object: its attributes are set, its ``__init__`` is not called again.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Final, cast

import msgspec

from .codecs.json import JsonCodec
from .errors import ConfigurationError, EncodeError, ValidationError

OURS: Final = frozenset({"_terms", "jid", "tries"})  # what penstock notes on a job


class JobFields:
    """The codec of one class."""

    def __init__(self, cls: type[Any], *, typed: bool) -> None:
        self._cls, self._typed = cls, typed
        try:
            self._json = JsonCodec(cls if typed else dict)
        except (ConfigurationError, NameError) as error:
            raise ConfigurationError(f"the fields of {cls.__qualname__} cannot be those of a job: {error}") from error

    def encode(self, payload: Any) -> bytes:
        """The job's fields, or attributes, as JSON."""
        if not isinstance(payload, self._cls):
            raise ValidationError(f"expected a {self._cls.__qualname__}, got {payload!r:.100}")
        attributes = cast("dict[str, Any]", vars(payload))
        fields = {name: value for name, value in attributes.items() if name not in OURS}
        try:
            body = msgspec.json.encode(fields)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise EncodeError(f"a {self._cls.__qualname__} cannot be written as JSON: {error}") from error
        if self._typed:
            self._json.decode(body)  # what the worker could not read is never sent
        return body

    def decode(self, body: bytes) -> Any:
        """A new job with these fields."""
        fields = self._json.decode(body)
        if self._typed:
            return fields
        job: Any = object.__new__(self._cls)
        job.__dict__.update((name, value) for name, value in fields.items() if name not in OURS)
        return job


def declared(cls: type[Any]) -> bool:
    """Make a dataclass of a class of jobs, unless it has an ``__init__`` of its own: then false."""
    if "__init__" in vars(cls) or not (cls.__init__ is object.__init__ or dataclasses.is_dataclass(cls)):
        return False
    dataclasses.dataclass(cls)
    return True


def handles(cls: type[Any]) -> bool:
    """Whether the jobs of a class carry their own data."""
    return inspect.isfunction(inspect.getattr_static(cls, "handle", None))
