-- An owner leaves: what it holds goes back to its queues as if it had never been taken.
-- ARGV  1… owner|reader|queue
local count = 0
for i = 1, #ARGV do
  count = count + give_back(INFLIGHT .. ARGV[i], string.match(ARGV[i], '^[^|]*|[^|]*|(.*)$'))
  redis.call('ZREM', OWNERS, ARGV[i])
  redis.call('DEL', ROBBED .. ARGV[i])
end
return count
