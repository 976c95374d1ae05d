"""States of iterable jobs in Redis, where Ruby has them: the HASH ``it-<jid>``."""

from __future__ import annotations

import msgspec

from ..clients.redis import RedisClient
from ..iterable import IterationState
from .transaction import together

TTL = 30 * 86_400  # seconds, from the first time that something was saved


class RedisIterations:
    """See ``IterationStore``."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def load(self, jid: str, /) -> IterationState:
        reply: list[bytes] = await self._client.call("HGETALL", _key(jid))
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        cancelled = fields.get(b"cancelled")
        return IterationState(
            executions=int(fields.get(b"ex", b"0")),
            cursor=msgspec.json.decode(fields.get(b"c", b"null")),
            runtime=float(fields.get(b"rt", b"0")),
            cancelled=None if cancelled is None else float(cancelled),
        )

    async def save(self, jid: str, state: IterationState, /) -> float | None:
        key, cursor = _key(jid), msgspec.json.encode(state.cursor)
        saved = ("HSET", key, "ex", state.executions, "c", cursor, "rt", repr(state.runtime))
        cancelled = (await together(self._client, saved, ("EXPIRE", key, TTL, "NX"), ("HGET", key, "cancelled")))[-1]
        return None if cancelled is None else float(cancelled)

    async def cancel(self, jid: str, now: float, /) -> float:
        key = _key(jid)
        once = ("HSETNX", key, "cancelled", int(now))
        return float((await together(self._client, once, ("EXPIRE", key, TTL, "NX"), ("HGET", key, "cancelled")))[-1])

    async def delete(self, jid: str, /) -> None:
        await self._client.call("UNLINK", _key(jid))


def _key(jid: str) -> str:
    return f"it-{jid}"
