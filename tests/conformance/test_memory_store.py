"""The store in memory."""

from __future__ import annotations

from penstock.store import Store
from penstock.stores.memory import MemoryStore
from penstock.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    _store: MemoryStore | None = None

    async def make_store(self) -> Store:
        if self._store is None:
            self._store = MemoryStore(self.clock)
        return self._store
