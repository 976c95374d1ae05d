-- Bind a pattern for a group. However many groups of ours there are, and however often they come: we count as one.
-- KEYS  1 rotif:patterns   2 rotif:bound:<pattern>, the set of our groups   3 rotif:readers:<pattern>, who reads as which
--       group, scored with the ms until which it counts
-- ARGV  1 pattern   2 group   3 who reads, or will   4 ms for which that counts
local new = redis.call('SCARD', KEYS[2]) == 0
redis.call('SADD', KEYS[2], ARGV[2])
if new or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('ZINCRBY', KEYS[1], 1, ARGV[1]) end
local now = math.floor(now_ms())
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', whole(now))
redis.call('ZADD', KEYS[3], whole(now + ARGV[4]), ARGV[2] .. '\0' .. ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('PUBLISH', 'rotif:subscriptions:updates', 'add:' .. ARGV[1])
return 1
