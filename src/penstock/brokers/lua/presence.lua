-- The list of living workers.
-- KEYS  1 hash: identity → what it says of itself   2 sorted set: identity → ms since the epoch until which it lives
-- ARGV  1 identity ('' to look only)   2 what it says   3 ms for which it lives (0: it leaves)
-- Returns what those alive say of themselves, by the server's clock.
local now = math.ceil(now_ms())
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], whole(now + ARGV[3]), ARGV[1])
end
for _, gone in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', whole(now), 'BYSCORE')) do
  redis.call('HDEL', KEYS[1], gone)
  redis.call('ZREM', KEYS[2], gone)
end
if ARGV[1] ~= '' then return {} end
return redis.call('HVALS', KEYS[1])
