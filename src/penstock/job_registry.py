"""Which class runs which wire name.

The name in a payload is all that both sides agree on: a worker never imports what a payload names, it looks it up here.
A class is registered by being defined.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from .errors import ConfigurationError

T = TypeVar("T")

FORBIDDEN: Final = "/$|"  # Sidekiq's web pages and its metrics split names at them


class Jobs(Generic[T]):
    """Classes of jobs by wire name, among them former names that old payloads still carry."""

    def __init__(self) -> None:
        self._classes: dict[str, list[type[T]]] = {}

    def add(self, cls: type[T], *names: str) -> None:
        """Register a class under its names.

        A class defined again, as on a reload or within a function, takes the place of the former one. Two different
        classes of one name are an error for whoever asks for it: a process that only pushes them never does.
        """
        for name in names:
            check_name(name)
            others = [held for held in self._classes.get(name, ()) if held is not cls and not _replaces(cls, held)]
            self._classes[name] = [*others, cls]

    def resolve(self, wire_name: str) -> type[T] | None:
        """The class of a name, or ``None``. Raises ``ConfigurationError`` if two classes have it."""
        classes = self._classes.get(wire_name)
        if classes is None:
            return None
        if len(classes) > 1:
            raise ConfigurationError(
                f"the wire name {wire_name!r} is that of {' and '.join(map(_place, classes))}; give one of them a"
                " wire_name of its own"
            )
        return classes[0]

    def check(self) -> None:
        """Raise ``ConfigurationError`` if any name has two classes. For a worker, before it takes its first job."""
        for name in self._classes:
            self.resolve(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, sorted."""
        return tuple(sorted(self._classes))


def check_name(name: Any) -> None:
    """A name that every reader of Sidekiq's schema can bear."""
    if not isinstance(name, str) or not name or any(mark in name for mark in FORBIDDEN):
        raise ConfigurationError(
            f"a wire name is a text such as 'Billing::InvoiceJob', not empty and without / $ |, got {name!r}"
        )


def _replaces(new: type[Any], old: type[Any]) -> bool:
    return _place(new) == _place(old) or "<locals>" in old.__qualname__


def _place(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
