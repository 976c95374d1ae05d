"""The connections of an app: brokers by name, what writes to each, and the state that all workers share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, cast

from ..app import open_broker, open_store
from ..audit import Audit
from ..broker import Broker
from ..codecs.json import JsonCodec
from ..errors import ConfigurationError, InvalidURL
from ..inspector import Inspector
from ..job import Job
from ..producer import Producer
from ..sidekiq.client import Client
from ..store import Store, SupportsBudgets, SupportsTables


class Connections:
    """``given``: brokers or their URLs by name, or one, which is called ``default``. Each is opened when first used."""

    def __init__(
        self,
        given: str | Broker[Any] | Mapping[str, str | Broker[Any]] | None,
        default: str | None,
        store: str | Store | None,
        archive: Audit | None,
    ) -> None:
        named = given if isinstance(given, Mapping) else {"default": given or "memory://"}
        if not named:
            raise ConfigurationError("an App needs at least one connection, such as App('sqlite:///jobs.db')")
        self._urls = {name: each for name, each in named.items() if isinstance(each, str)}
        self._brokers: dict[str, Broker[Any]] = {
            name: open_broker(each) if isinstance(each, str) else each for name, each in named.items()
        }
        self._default = default if default is not None else "default" if "default" in named else next(iter(named))
        self.known(self._default)
        self.archive = archive
        self._store: Any = open_store(store) if isinstance(store, str) else store
        self._producers: dict[tuple[str, str], Producer[Any]] = {}
        self._clients: dict[str, Client] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the connections."""
        return tuple(self._brokers)

    def known(self, name: str | None) -> str:
        """The name of a connection, by default that of the default one. Raises ``ConfigurationError``."""
        name = self._default if name is None else name
        if name not in self._brokers:
            raise ConfigurationError(f"there is no connection {name!r}; there are {', '.join(self._brokers)}")
        return name

    def broker(self, name: str | None = None) -> Broker[Any]:
        """The broker of a connection."""
        return self._brokers[self.known(name)]

    def another(self, name: str | None) -> Broker[Any]:
        """A broker for a worker in this process, which it may close: of its own, where more than one may be open."""
        name = self.known(name)
        broker = self._brokers[name]
        return open_broker(self._urls[name]) if name in self._urls and broker.capabilities.shared else broker

    def producer(self, name: str, queue: str) -> Producer[Any]:
        """What pushes jobs to a queue."""
        place = (name, queue)
        if place not in self._producers:
            self._producers[place] = Producer(self._brokers[name], queue, object, codec=_CODEC, archive=self.archive)
        return self._producers[place]

    def client(self, name: str | None) -> Client:
        """What pushes jobs with ``perform``."""
        name = self.known(name)
        if name not in self._clients:
            self._clients[name] = Client(self._brokers[name], archive=self.archive)
        return self._clients[name]

    async def inspector(self, name: str | None) -> Inspector:
        """What looks at a connection."""
        broker = self.broker(name)
        await broker.open()
        return Inspector(broker)

    def store(self, who: str, name: str | None = None) -> Any:
        """The state that all workers share: the app's own store, or one beside a connection. ``who`` needs it."""
        name = self.known(name)
        if self._store is None and name in self._urls:
            with contextlib.suppress(InvalidURL):
                self._store = open_store(self._urls[name])
        if not (isinstance(self._store, SupportsBudgets) and isinstance(self._store, SupportsTables)):
            raise ConfigurationError(
                f"{who} need a place that all workers share, and beside {self._brokers[name].url} there is none;"
                " say App(..., store='redis://…')"
            )
        return self._store

    async def close(self) -> None:
        """Disconnect."""
        if self._store is not None:
            await self._store.close()
        await asyncio.gather(*(broker.close() for broker in self._brokers.values()))


class _JobCodec(JsonCodec):
    """Any job, by the codec of its class."""

    def encode(self, payload: Any) -> bytes:
        return cast("Job", payload).fields().encode(payload)


_CODEC = _JobCodec()
