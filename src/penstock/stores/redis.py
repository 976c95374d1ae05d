"""A store in Redis or Valkey: ``PENDING:<owner>`` while reserved, then ``DONE``, as glide-kit's consumers write it. And budgets and tables.

Any other value is one of somebody else's who is done.

A budget is a HASH ``budget:<name>`` that expires with its window; its clock is the server's. A table is a HASH
``table:<name>``.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET, UnsetType

from ..clients.opening import redis_client
from ..clients.redis import RedisClient, Script
from ..store import SLICES, Claim, Grant

# KEYS  1 the key
# ARGV  1 verb   2 owner   3 ms to live
# Each verb looks at the value and changes it in one step. Returns 0 no, 1 yes, 2 done already.
STEP = Script(
    "store",
    """
local key, verb, mine, ttl = KEYS[1], ARGV[1], 'PENDING:' .. ARGV[2], ARGV[3]
local value = redis.call('GET', key)
if verb == 'reserve' then
  if value and string.sub(value, 1, 8) ~= 'PENDING:' then return 2 end
  if value and value ~= mine then return 0 end
  redis.call('SET', key, mine, 'PX', ttl)
elseif verb == 'complete' then
  if value and value ~= mine and string.sub(value, 1, 8) == 'PENDING:' then return 0 end
  redis.call('SET', key, 'DONE', 'PX', ttl)
else
  if value ~= mine then return 0 end
  if verb == 'renew' then redis.call('PEXPIRE', key, ttl) else redis.call('DEL', key) end
end
return 1
""",
)

# KEYS  1 the budget, a HASH: slice -> spent
# ARGV  1 limit   2 window, ms   3 slices   4 wanted
# Returns granted, left, ms until the oldest slice is out of the window (0: there is some left)
SPEND = Script(
    "spend",
    """
local limit, window, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now, width = time[1] * 1000 + time[2] / 1000, window / tonumber(ARGV[3])
local current, oldest = math.floor(now / width), math.floor((now - window) / width)
local spent, first = 0, nil
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local slice, count = tonumber(all[i]), tonumber(all[i + 1])
  if slice < oldest or count <= 0 then
    redis.call('HDEL', KEYS[1], all[i])
  else
    spent = spent + count
    if not first or slice < first then first = slice end
  end
end
local free = math.max(limit - spent, 0)
local granted = math.min(wanted, free)
if granted > 0 then
  redis.call('HINCRBY', KEYS[1], string.format('%d', current), granted)
  redis.call('PEXPIRE', KEYS[1], math.ceil(window + 2 * width))
  if not first then first = current end
end
local wait = 0
if granted == free then wait = math.ceil((first + 1) * width + window - now) end
return {granted, free - granted, wait}
""",
)

# KEYS  1 the table, a HASH
# ARGV  1 key   2 value   3 what is expected   4 'put', 'remove'   5 'any', 'absent', 'present'
PUT = Script(
    "put",
    """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[5] == 'absent' and found then return 0 end
if ARGV[5] == 'present' and found ~= ARGV[3] then return 0 end
if ARGV[4] == 'put' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) else redis.call('HDEL', KEYS[1], ARGV[1]) end
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

    async def spend(self, name: str, limit: int, window: float, wanted: int) -> Grant:
        args = [limit, _milliseconds(window), SLICES, wanted]
        count, left, wait = await self._client.run(SPEND, [f"budget:{name}"], args)
        return Grant(count, left, wait / 1000)

    async def rows(self, table: str) -> Mapping[str, bytes]:
        found = await self._client.call("HGETALL", f"table:{table}")
        return {key.decode(): value for key, value in zip(found[::2], found[1::2], strict=True)}

    async def put(self, table: str, key: str, value: bytes | None, expected: bytes | UnsetType | None = UNSET) -> bool:
        known = "any" if expected is UNSET else "absent" if expected is None else "present"
        verb = "remove" if value is None else "put"
        seen = b"" if expected is UNSET or expected is None else expected
        args: list[bytes | str | int | float] = [key, value or b"", seen, verb, known]
        return bool(await self._client.run(PUT, [f"table:{table}"], args))

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
