-- Bind a pattern for a group. However many groups of ours there are, and however often they come: we count as one.
-- KEYS  1 rotif:patterns   2 rotif:bound:<pattern>, the set of our groups
-- ARGV  1 pattern   2 group
local new = redis.call('SCARD', KEYS[2]) == 0
redis.call('SADD', KEYS[2], ARGV[2])
if new or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('ZINCRBY', KEYS[1], 1, ARGV[1]) end
redis.call('PUBLISH', 'rotif:subscriptions:updates', 'add:' .. ARGV[1])
return 1
