-- An owner leaves: what it holds goes back to its queues as if it had never been taken.
-- ARGV  1… owner|reader|queue
local count = 0
for i = 1, #ARGV do
  local given = give_back(INFLIGHT .. ARGV[i], string.match(ARGV[i], '^[^|]*|[^|]*|(.*)$'))
  count = count + (given or 0)
  if given then redis.call('ZREM', OWNERS, ARGV[i]) end
end
return count
