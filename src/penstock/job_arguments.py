"""From a call of ``perform`` to the list that travels: the wire knows positional arguments only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from .errors import ArgumentError, ConfigurationError


class Arguments:
    """The parameters of a ``perform``."""

    __slots__ = ("_fits", "_least", "_most", "_name", "_signature")

    def __init__(self, name: str, perform: Callable[..., Any], *, bound: bool) -> None:
        """``bound``: the first parameter is the instance."""
        parameters = list(inspect.signature(perform).parameters.values())[bound:]
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise ConfigurationError(
                    f"{name}.perform must be given {parameter.name!r} by keyword, but jobs carry positional arguments"
                    f" only; move it before the *"
                )
        positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        self._name, self._signature = name, inspect.Signature(parameters)
        self._least = sum(1 for p in positional if p.default is p.empty)
        self._most = None if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)

    def listed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The list for one call. Raises ``ArgumentError`` if ``perform`` could not be called with it."""
        if kwargs:
            return self._bound(args, kwargs)
        self._check(len(args))
        return list(args)

    def checked(self, jobs: Iterable[Sequence[Any]]) -> Iterable[Any]:
        """The lists of many calls, each checked when it is come to; a tuple is as good as a list."""
        if isinstance(jobs, list | tuple):
            return [self._one(args) for args in jobs]
        return self._lazily(jobs)

    def _lazily(self, jobs: Iterable[Sequence[Any]]) -> Iterator[Any]:
        for args in jobs:
            yield self._one(args)

    def _one(self, args: Any) -> Any:
        if isinstance(args, list | tuple):  # what is neither is the client's to refuse
            args = [*cast("Any", args)]
            self._check(len(args))
        return args

    def _check(self, count: int) -> None:
        if count < self._least or (self._most is not None and count > self._most):
            raise ArgumentError(f"{self._name}.perform takes {self._signature}, got {count} arguments")

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{self._name}.perform takes {self._signature}: {error}") from error
        bound.apply_defaults()
        if bound.kwargs:
            raise ArgumentError(
                f"{self._name}.perform would get {', '.join(bound.kwargs)} by keyword, but jobs carry positional"
                " arguments only"
            )
        return list(bound.args)
