"""Several queues that one consumer reads, and in which order it looks into them.

Weights are Sidekiq's: none at all is ``strict``, the first queue first, always; all of them 1 is ``random``, a new order
for each look; anything else is ``weighted``: a queue of weight 3 comes first three times as often as one of weight 1.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypeAlias, cast

from .errors import ConfigurationError

Mode: TypeAlias = Literal["strict", "random", "weighted"]


class Queues:
    """``Queues("critical,3", "default")``, ``Queues(("critical", 3), "default")``: names, with weights or without."""

    def __init__(self, *queues: str | Sequence[Any]) -> None:
        pairs = [_pair(queue) for queue in queues]
        if not pairs:
            raise ConfigurationError('Queues needs at least one name, such as Queues("critical,3", "default")')
        self._draw = [name for name, weight in pairs for _ in range(max(weight, 1))]
        self.names = tuple(dict.fromkeys(name for name, _ in pairs))
        self.weights = {name: sum(weight for other, weight in pairs if other == name) for name in self.names}
        given = {weight for _, weight in pairs}
        self.mode: Mode = "strict" if given == {0} else "random" if given == {1} else "weighted"

    def __repr__(self) -> str:
        return f"Queues({', '.join(repr(f'{n},{w}' if w else n) for n, w in self.weights.items())})"

    @property
    def name(self) -> str:
        """All of them in one word."""
        return ",".join(self.names)

    def order(self, dice: random.Random, without: Collection[str] = ()) -> tuple[str, ...]:
        """The order of one look."""
        if self.mode == "strict":
            return tuple(name for name in self.names if name not in without)
        draw = list(self._draw)
        dice.shuffle(draw)
        return tuple(name for name in dict.fromkeys(draw) if name not in without)


def _pair(queue: Any) -> tuple[str, int]:
    """Name and weight; 0 if none is given."""
    name, weight = queue, "0"
    if isinstance(queue, str):
        name, comma, given = queue.rpartition(",")
        name, weight = (name, given) if comma else (given, "0")
    elif isinstance(queue, list | tuple) and 1 <= len(cast("Sequence[Any]", queue)) <= 2:
        parts = cast("Sequence[Any]", queue)
        name, weight = parts[0], str(parts[1]) if len(parts) > 1 else "0"
    if not isinstance(name, str) or not name.strip() or not weight.strip().isdecimal():
        raise ConfigurationError(f'a queue is "name", "name,weight" or (name, weight), got {queue!r:.100}')
    return name.strip(), int(weight)
