"""A broker that prints what is published: a transport for events that only people want to see while they develop."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from ..broker import Capabilities, Outgoing, Settlement, Subscription
from ..errors import UnsupportedFeature
from ..message import Delivery


class ConsoleBroker:
    """Prints one line for each message to ``out``, standard output by default. Nothing can be read from it."""

    capabilities = Capabilities(shared=False, retentions=())
    url = "console://"
    identity = "console"

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out
        self._numbers = itertools.count(1)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def fork(self) -> ConsoleBroker:
        return ConsoleBroker(self._out)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        out = self._out or sys.stdout
        for item in messages:
            message = item.message
            out.write(f"{item.destination} {message.type} {message.body.decode('utf-8', 'backslashreplace')}\n")
        out.flush()
        return [str(next(self._numbers)) for _ in messages]

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
        _refuse()

    async def settle(self, settlements: Sequence[Settlement[Any]]) -> Sequence[Delivery[Any]]:
        _refuse()

    async def extend(self, deliveries: Sequence[Delivery[Any]], lease: float) -> Sequence[Delivery[Any]]:
        _refuse()


def _refuse() -> NoReturn:
    raise UnsupportedFeature(
        "a console only shows what is published: read from a broker that keeps it, such as redis://"
    )
