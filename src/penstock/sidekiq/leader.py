"""One leader among all processes: Ruby's pages label it, and what must happen once per fleet happens there."""

from __future__ import annotations

from typing import Final

from ..clients.redis import RedisClient, Script

TERM = 20  # seconds without a renewal after which another process may lead

_LEADER: Final = Script.load("penstock.brokers.lua", "sidekiq_leader")


class Leader:
    """This process's candidature. ``leading`` says what the last campaign brought."""

    def __init__(self, client: RedisClient, identity: str) -> None:
        self._client, self._identity = client, identity
        self.leading = False

    async def campaign(self) -> bool:
        """Become the leader or stay it, if nobody else is; to be called more often than ``TERM``."""
        try:
            self.leading = bool(await self._client.run(_LEADER, (), (self._identity, TERM)))
        except BaseException:
            self.leading = False  # who cannot renew must not believe in it
            raise
        return self.leading

    async def resign(self) -> None:
        """Let another one lead at once."""
        self.leading = False
        await self._client.run(_LEADER, (), (self._identity, 0))
