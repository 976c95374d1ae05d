-- What lies in a reader's lists: to find what a call took whose answer was lost. Their leases are renewed.
-- ARGV  1 lease in ms   2 owner|reader|   3… queues
-- Returns for each queue with any: its name, the jobs, the oldest first, and how many owners died with each.
local found = {}
for i = 3, #ARGV do
  local member = ARGV[2] .. ARGV[i]
  local jobs = redis.call('LRANGE', INFLIGHT .. member, 0, -1)
  if #jobs > 0 then
    redis.call('ZADD', OWNERS, whole(now_ms() + ARGV[1]), member)
    local oldest_first, counts = {}, {}
    for j = #jobs, 1, -1 do
      oldest_first[#oldest_first + 1] = jobs[j]
      counts[#counts + 1] = crashes(jobs[j])
    end
    found[#found + 1] = {ARGV[i], oldest_first, counts}
  end
end
return found
