"""The memory broker, which is the specification, against the suite, which is the specification too."""

from __future__ import annotations

import itertools
from typing import Any

from penstock.broker import Broker, Retention
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.testing.conformance import BrokerConformance


class TestMemory(BrokerConformance):
    _system: MemorySystem | None = None
    _names = itertools.count()

    async def make_broker(self) -> Broker[Any]:
        if self._system is None:
            self._system = MemorySystem(self.clock)
        return MemoryBroker(self._system, identity=f"owner-{next(self._names)}")

    async def make_retaining(self, retention: Retention, **limits: Any) -> Broker[Any]:
        assert self._system is not None
        return MemoryBroker(self._system, identity=f"owner-{next(self._names)}", retention=retention, **limits)
