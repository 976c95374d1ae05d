"""Redis Pub/Sub on a connection of its own: what is published while we listen, and nothing of what was before."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from ..errors import ConnectionFailed, UnsupportedFeature
from .redis import RedisClient
from .redis_py import Link, RedisPyClient, translate

SILENCE = 10.0  # seconds without a word after which the server is asked whether it is there


class Listener:
    """Listens to one pattern (Redis' own kind). Connects on first use, and anew after the connection broke."""

    def __init__(self, client: RedisClient, pattern: str) -> None:
        if not isinstance(client, RedisPyClient):
            raise UnsupportedFeature(
                f"{client.url} cannot listen to Pub/Sub; write redis:// or valkey:// in the address"
            )
        self._client, self._pattern = client, pattern
        self._link: Link | None = None
        self._heard: deque[tuple[str, bytes]] = deque()

    async def connect(self) -> None:
        """Return when the server has us on its list."""
        if self._link is not None:
            return
        link = await self._client.connect()
        try:
            await self._client.exchange_on(link, ("PSUBSCRIBE", self._pattern), 0.0)
        except BaseException:
            link.drop()
            raise
        self._link = link

    async def next(self, limit: int, wait: float) -> list[tuple[str, bytes]]:
        """Up to ``limit`` messages, channel and body each, waiting ``wait`` seconds for the first."""
        await self.connect()
        if not self._heard:
            await self._listen(wait)
        return [self._heard.popleft() for _ in range(min(limit, len(self._heard)))]

    async def close(self) -> None:
        """Disconnect; what was heard and not taken is forgotten."""
        link, self._link = self._link, None
        self._heard.clear()
        if link is not None:
            await link.close()

    async def _listen(self, wait: float) -> None:
        link = self._link
        if link is None:
            return
        try:
            with translate(self._client.url):
                self._take(await link.listen(min(wait, SILENCE)))
                if not self._heard and wait >= SILENCE:
                    await self._ask(link)
        except ConnectionFailed:
            self._link = None
            link.drop()
            raise

    async def _ask(self, link: Link) -> None:
        """Whether anybody is there: messages may come before the answer does."""
        link.say(("PING",), self._client.pack)
        async with asyncio.timeout(SILENCE):
            while True:
                said = await link.listen(SILENCE)
                self._take(said)
                if any(reply and reply[0] == b"pong" for reply in said):
                    return

    def _take(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, list) and len(reply) == 4 and reply[0] == b"pmessage":  # pyright: ignore[reportUnknownArgumentType]
                self._heard.append((reply[2].decode("utf-8", "replace"), reply[3]))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
