-- Renew the leases of one reader; put aside what it holds no longer, so that it lapses by itself.
-- ARGV  1 lease in ms   2 owner|reader|   3 owner|shelf of the reader|   then letters, each with
--       l queue: renew the list of this queue · k queue, job: it should be in there, or on the shelf
--       s queue, job, ms: put it aside, its lease runs that long
-- Returns 0 for each k that is not ours any more, else 1.
local now, found, renewed, there = now_ms(), {}, {}, {}

local function list_of(queue)
  return INFLIGHT .. ARGV[2] .. queue
end

-- One such job of the list, and the next time the next one: equal jobs are several.
local function look(queue, job)
  local counts = there[queue]
  if not counts then
    counts = {}
    for _, each in ipairs(redis.call('LRANGE', list_of(queue), 0, -1)) do counts[each] = (counts[each] or 0) + 1 end
    there[queue] = counts
  end
  local count = counts[job] or 0
  counts[job] = count - 1
  return count > 0
end

local i = 4
while i <= #ARGV do
  local letter, queue, job = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local shelf = INFLIGHT .. ARGV[3] .. queue
  if letter == 'l' then
    renewed[#renewed + 1] = queue
    i = i + 2
  elseif letter == 'k' then
    local ours = look(queue, job)
    if not ours and redis.call('LREM', shelf, -1, job) == 1 then
      redis.call('LPUSH', list_of(queue), job)
      ours = true
    end
    found[#found + 1] = ours and 1 or 0
    i = i + 3
  else
    if look(queue, job) and redis.call('LREM', list_of(queue), -1, job) == 1 then
      redis.call('LPUSH', shelf, job)
      redis.call('ZADD', OWNERS, 'GT', whole(now + ARGV[i + 3]), ARGV[3] .. queue)
    end
    i = i + 4
  end
end
for _, queue in ipairs(renewed) do
  if redis.call('EXISTS', list_of(queue)) == 1 then
    redis.call('ZADD', OWNERS, whole(now + ARGV[1]), ARGV[2] .. queue)
  else
    redis.call('ZREM', OWNERS, ARGV[2] .. queue)
  end
end
return found
