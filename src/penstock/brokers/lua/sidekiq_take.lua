-- Take up to `limit` jobs from the queues, in their order, into this reader's lists.
-- ARGV  1 limit   2 lease in ms   3 owner|reader|   4… queues
-- Returns for each queue that had any: its name, the jobs, and how many owners died with each (empty: none).
-- First they are in our list, then they leave their queue: if Redis refuses a step, nothing is lost.
redis.call('ZREM', OWNERS, '') -- any first write that needs no memory: without memory jobs must be taken all the same
local left, found = tonumber(ARGV[1]), {}
local suspicious = redis.call('EXISTS', CRASHES) == 1
local ends
for i = 4, #ARGV do
  if left <= 0 then break end
  local queue = ARGV[i]
  local jobs = redis.call('LRANGE', 'queue:' .. queue, -left, -1)
  if #jobs > 0 then
    local taken, counts = {}, {}
    for j = #jobs, 1, -1 do taken[#taken + 1] = jobs[j] end
    ends = ends or whole(now_ms() + ARGV[2])
    redis.call('ZADD', OWNERS, ends, ARGV[3] .. queue)
    push_left(INFLIGHT .. ARGV[3] .. queue, taken)
    redis.call('LTRIM', 'queue:' .. queue, 0, -#jobs - 1)
    if suspicious then
      for j = 1, #taken do counts[j] = crashes(taken[j]) end
    end
    found[#found + 1] = {queue, taken, counts}
    left = left - #taken
  end
end
return found
