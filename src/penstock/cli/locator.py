"""Finding what a worker shall run, by names such as ``myapp.jobs`` or ``myapp.jobs:consumer``.

1. ``module``: every ``Consumer`` in it; or its ``Worker``, if that is all there is.
2. ``module:attribute``: a ``Consumer``, a list of them, a ``Worker``, an ``App``, an object with ``consumers``, or, with
   ``--factory``, a function without parameters that makes one of these.
3. What is found twice runs once. A ``Worker`` brings its own settings and runs alone.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias, TypeGuard, cast

from ..consumer import Consumer
from ..errors import ConfigurationError, PenstockError
from ..worker import Worker

Found: TypeAlias = Worker | list[Consumer[Any]]

EXPECTED = "expected a Consumer, a list of Consumers, a Worker, an App, or an object with .consumers"


def locate(names: Sequence[str], *, factory: bool = False, said: Mapping[str, Any] | None = None) -> Found:
    """A worker ready to run, or the consumers to run in one. Raises ``ConfigurationError``.

    ``said``: what the command line says of the worker of an ``App``.
    """
    if os.getcwd() not in sys.path:  # noqa: PTH109 sys.path holds text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found = [_locate(name, said or {}, factory=factory) for name in names]
    workers = {id(each): each for each in found if isinstance(each, Worker)}
    if not workers:
        return _distinct(consumer for each in found if not isinstance(each, Worker) for consumer in each)
    if len(found) > 1:
        raise ConfigurationError(
            "a Worker brings its own consumers and settings and runs alone; name Consumers instead"
        )
    return next(iter(workers.values()))


def _locate(name: str, said: Mapping[str, Any], *, factory: bool) -> Found:
    module_name, _, path = name.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        hint = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(
            f"{name!r} is a path; name the module instead, such as {hint}{':' if path else ''}{path}"
        )
    module = _import(module_name)
    if not path:
        if factory:
            raise ConfigurationError(f"--factory needs the name of a function: {name}:function")
        return _everything_in(module, said)
    try:
        value: Any = reduce(getattr, path.split("."), module)
    except AttributeError:
        found = [key for key, each in vars(module).items() if _is_consumer(each) or isinstance(each, Worker)]
        raise ConfigurationError(
            f"module {module_name!r} has no {path!r}; {_there_is(found) if found else 'nor any Consumer'}"
        ) from None
    return _understood(_made(value, name) if factory else value, name, said)


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"no module named {error.name!r} in {os.getcwd()} or installed") from error  # noqa: PTH109
        raise _failed(f"importing {name}", error) from error
    except Exception as error:
        raise _failed(f"importing {name}", error) from error


def _everything_in(module: ModuleType, said: Mapping[str, Any]) -> Found:
    values: list[Any] = list(vars(module).values())
    workers = list({id(each): each for each in values if isinstance(each, Worker)}.values())
    consumers = _distinct(filter(_is_consumer, values))
    apps = list({id(each): each for each in values if _is_app(each)}.values())
    if len(apps) == 1 and not workers and not consumers:
        return _understood(apps[0], module.__name__, said)
    if not workers and not consumers:
        raise ConfigurationError(
            f"module {module.__name__!r} has no Consumer; name what makes them: {module.__name__}:attribute"
        )
    _heard(said, module.__name__)
    if not workers:
        return consumers
    if len(workers) == 1 and {id(c) for c in consumers} <= {id(c) for c in workers[0].consumers}:
        return workers[0]
    names = [key for key, each in vars(module).items() if any(each is found for found in workers)]
    raise ConfigurationError(
        f"module {module.__name__!r} has {_there_is(names)} and {len(consumers)} Consumers; say which: {module.__name__}:{names[0]}"
    )


def _made(value: Any, name: str) -> Any:
    if not callable(value):
        raise ConfigurationError(f"--factory: {name} is a {type(value).__name__}, not a function")
    try:
        made: Any = value()
    except Exception as error:
        raise _failed(f"calling {name}()", error) from error
    close = getattr(made, "close", None)
    if hasattr(made, "__await__"):
        if close is not None:
            close()
        raise ConfigurationError(f"--factory: {name} is a coroutine function; a plain function is needed")
    return made


def _understood(value: Any, name: str, said: Mapping[str, Any]) -> Found:
    if _is_app(value):
        return [value.consumer_for(said)]
    _heard(said, name)
    if isinstance(value, Worker):
        return value
    if isinstance(value, Consumer):
        return [value]
    if not isinstance(value, type) and hasattr(value, "consumers"):
        value = value.consumers
    if isinstance(value, list | tuple | set | frozenset):
        items: list[Any] = list(cast("Iterable[Any]", value))
        wrong = [item for item in items if not isinstance(item, Consumer)]
        if items and not wrong:
            return _distinct(items)
        met = f"a {type(wrong[0]).__name__} in it" if wrong else "it is empty"
        raise ConfigurationError(f"{name}: {EXPECTED}; {met}")
    hint = "; if it makes them, add --factory" if callable(value) else ""
    raise ConfigurationError(f"{name} is a {type(value).__name__}; {EXPECTED}{hint}")


def _heard(said: Mapping[str, Any], name: str) -> None:
    if said:
        raise ConfigurationError(f"{', '.join(said)} can be said of an App only, and {name} is none; leave it out")


def _is_app(value: Any) -> bool:
    """Asked without importing ``App`` and all that it needs, for programs that have none."""
    return not isinstance(value, type | ModuleType) and hasattr(value, "consumer_for")


def _is_consumer(value: Any) -> TypeGuard[Consumer[Any]]:
    return isinstance(value, Consumer)


def _distinct(consumers: Iterable[Consumer[Any]]) -> list[Consumer[Any]]:
    return list({id(each): each for each in consumers}.values())


def _there_is(names: Sequence[str]) -> str:
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def _failed(what: str, error: Exception) -> ConfigurationError:
    """The user's code raised: say what and where, in one line."""
    where = ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if len(frames) > 1:
        where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    text = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
    return ConfigurationError(f"{what} failed: {text}{where}")
