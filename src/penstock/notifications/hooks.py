"""Hooks: what is called before and after publishing and processing, and on errors.

All of them in the order in which they were added, each awaited if it is asynchronous; no onion, answers do not count.
What ``before_publish`` raises rejects the message, what ``before_process`` raises is a failure like the handler's. Those
that come after the fact cannot undo it: what they raise is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from ..checks import known
from ..errors import ConfigurationError

logger = logging.getLogger("penstock")

NAMES: Final = ("before_publish", "after_publish", "before_process", "after_process", "on_error")
_CAMEL: Final = dict(
    zip(NAMES, ("beforePublish", "afterPublish", "beforeProcess", "afterProcess", "onError"), strict=True)
)


class Hooks:
    """``before_publish(channel, payload, options)``, ``after_publish(channel, payload, ids, options)``,
    ``before_process(message)``, ``after_process(message)``, ``on_error(message, error)``.
    """

    def __init__(self) -> None:
        self._called: dict[str, list[Callable[..., Any]]] = {name: [] for name in NAMES}

    def add(self, hooks: object) -> None:
        """Add the hooks that an object has as methods, or a mapping by name; others' names in camel case too."""
        found = _by_mapping(cast("Mapping[str, Any]", hooks)) if isinstance(hooks, Mapping) else _by_object(hooks)
        if not found:
            raise ConfigurationError(f"hooks have at least one of {', '.join(NAMES)}, got {hooks!r:.100}")
        for name, call in found.items():
            if not callable(call):
                raise ConfigurationError(f"the hook {name} is a function, got {call!r:.60}")
            self._called[name].append(call)

    def has(self, name: str) -> bool:
        """Whether there is anything to call."""
        return bool(self._called[name])

    async def run(self, name: str, *arguments: Any) -> None:
        """Call all hooks of a name. Raises what the first that fails raises."""
        for call in self._called[name]:
            answer = call(*arguments)
            if inspect.isawaitable(answer):
                await answer

    async def tell(self, name: str, *arguments: Any) -> None:
        """Call all hooks of a name, whatever any of them raises."""
        for call in self._called[name]:
            try:
                answer = call(*arguments)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("the hook %s failed; the message is not touched by that", name)


def _by_mapping(hooks: Mapping[str, Any]) -> dict[str, Any]:
    known("a set of hooks", hooks, (*NAMES, *_CAMEL.values()))
    named = {_CAMEL[name]: name for name in NAMES}
    return {named.get(name, name): call for name, call in hooks.items() if call is not None}


def _by_object(hooks: object) -> dict[str, Any]:
    return {name: call for name in NAMES if (call := getattr(hooks, name, None)) is not None}
