"""What the tests of notifications share."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import Notification, NotificationManager
from tests.servers.redis_server import Server

KINDS = ["memory", "sqlite", "redis"]


class Heard:
    """A handler that keeps what it was given, and tells who waits for it."""

    def __init__(self, *failing: int, error: Exception | None = None) -> None:
        self.messages: list[Notification] = []
        self._failing, self._error = failing, error
        self._news: asyncio.Queue[Notification] = asyncio.Queue()

    async def __call__(self, message: Notification) -> None:
        self.messages.append(message)
        self._news.put_nowait(message)
        if message.attempt in self._failing or self._error is not None:
            raise self._error or ValueError("bad")

    async def next(self, count: int = 1, within: float = 10.0) -> list[Notification]:
        async with asyncio.timeout(within):
            return [await self._news.get() for _ in range(count)]

    @property
    def payloads(self) -> list[Any]:
        return [message.payload for message in self.messages]

    @property
    def attempts(self) -> list[int]:
        return [message.attempt for message in self.messages]


async def until(true: Callable[[], Awaitable[Any]], within: float = 10.0) -> None:
    """Wait for something that nobody tells of."""
    deadline = time.monotonic() + within
    while not await true():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)


class Place:
    """One empty system, and managers on it."""

    def __init__(self, kind: str, url: str, server: Server | None) -> None:
        self.kind, self.url, self.server = kind, url, server
        self.managers: list[NotificationManager] = []

    def manager(self, **options: Any) -> NotificationManager:
        made = NotificationManager(self.url, **{"retry_delay": 0.02, "drain": 5.0, **options})
        self.managers.append(made)
        return made

    async def close(self) -> None:
        for manager in self.managers:
            await manager.stop_all(1.0)


def place_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    if kind == "memory":
        return Place(kind, f"memory://{uuid.uuid4().hex}", None)
    if kind == "sqlite":
        return Place(kind, f"sqlite:///{folder}/n.db", None)
    server: Server = request.getfixturevalue("redis_server")
    server.flush()
    return Place(kind, server.url, server)
