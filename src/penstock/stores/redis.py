"""A store in Redis or Valkey: ``PENDING:<owner>`` while reserved, then ``DONE``, as glide-kit's consumers write it."""

from __future__ import annotations

from ..clients.opening import redis_client
from ..clients.redis import RedisClient, Script
from ..store import Claim

# KEYS  1 the key
# ARGV  1 verb   2 owner   3 ms to live
# Each verb looks at the value and changes it in one step. Returns 0 no, 1 yes, 2 done already.
STEP = Script(
    "store",
    """
local key, verb, mine, ttl = KEYS[1], ARGV[1], 'PENDING:' .. ARGV[2], ARGV[3]
local value = redis.call('GET', key)
if verb == 'reserve' then
  if value == 'DONE' then return 2 end
  if value and value ~= mine then return 0 end
  redis.call('SET', key, mine, 'PX', ttl)
elseif verb == 'complete' then
  if value and value ~= mine and value ~= 'DONE' then return 0 end
  redis.call('SET', key, 'DONE', 'PX', ttl)
else
  if value ~= mine then return 0 end
  if verb == 'renew' then redis.call('PEXPIRE', key, ttl) else redis.call('DEL', key) end
end
return 1
""",
)

_CLAIMS = (Claim.HELD, Claim.NEW, Claim.DONE)


class RedisStore:
    """Keys are used as given; expiry is the server's."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 10.0) -> RedisStore:
        """A store at ``url``, with connections of its own. Raises ``InvalidURL``."""
        return cls(redis_client(url, timeout=timeout))

    def __repr__(self) -> str:
        return f"RedisStore({self._client.url!r})"

    async def reserve(self, key: str, owner: str, ttl: float) -> Claim:
        return _CLAIMS[await self._step("reserve", key, owner, ttl)]

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        return await self._step("renew", key, owner, ttl) == 1

    async def complete(self, key: str, owner: str, ttl: float) -> bool:
        return await self._step("complete", key, owner, ttl) == 1

    async def release(self, key: str, owner: str) -> bool:
        return await self._step("release", key, owner, 0) == 1

    async def close(self) -> None:
        await self._client.close()

    async def _step(self, verb: str, key: str, owner: str, ttl: float) -> int:
        answer: int = await self._client.run(STEP, [key], [verb, owner, _milliseconds(ttl)])
        return answer


class RedisCache:
    """The smallest idempotency cache: a key that is there or not."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 10.0) -> RedisCache:
        """A cache at ``url``, with connections of its own. Raises ``InvalidURL``."""
        return cls(redis_client(url, timeout=timeout))

    async def set_if_absent(self, key: str, ttl: float) -> bool:
        return await self._client.call("SET", key, "1", "NX", "PX", _milliseconds(ttl)) is not None

    async def forget(self, key: str) -> None:
        await self._client.call("DEL", key)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._client.close()


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)
