-- Renew the leases of one reader; put aside what it holds no longer, so that it lapses by itself.
-- ARGV  1 lease in ms   2 owner|reader|   3 owner|shelf of the reader|   then letters, each with
--       l queue: renew the list of this queue · k queue, job: this one should be in it
--       s queue, job, ms: put it aside, its lease runs that long · b queue, job: bring it back
-- Returns 0 for each k and b that is not ours any more, else 1; k is looked at only in lists that others took from.
local now = now_ms()
local found, robbed, i = {}, {}, 4
while i <= #ARGV do
  local letter, queue = ARGV[i], ARGV[i + 1]
  local list, shelf = INFLIGHT .. ARGV[2] .. queue, INFLIGHT .. ARGV[3] .. queue
  if letter == 'l' then
    robbed[queue] = redis.call('DEL', ROBBED .. ARGV[2] .. queue) == 1
    if redis.call('EXISTS', list) == 1 then
      redis.call('ZADD', OWNERS, whole(now + ARGV[1]), ARGV[2] .. queue)
    else
      redis.call('ZREM', OWNERS, ARGV[2] .. queue)
    end
    i = i + 2
  elseif letter == 'k' then
    local there = not robbed[queue] or redis.call('LPOS', list, ARGV[i + 2])
    found[#found + 1] = there and 1 or 0
    i = i + 3
  elseif letter == 's' then
    if redis.call('LREM', list, -1, ARGV[i + 2]) == 1 then
      redis.call('LPUSH', shelf, ARGV[i + 2])
      redis.call('ZADD', OWNERS, 'NX', whole(now + ARGV[i + 3]), ARGV[3] .. queue)
    end
    i = i + 4
  else
    local there = redis.call('LREM', shelf, -1, ARGV[i + 2])
    if there == 1 then
      redis.call('LPUSH', list, ARGV[i + 2])
      redis.call('ZADD', OWNERS, whole(now + ARGV[1]), ARGV[2] .. queue)
    end
    found[#found + 1] = there
    i = i + 3
  end
end
return found
