-- How much there is of one queue, all of it seen at one moment.
-- ARGV  1 queue
-- Returns what waits, what is at work, how many owners have it, the members of `retry` and of `schedule`, and the oldest
-- job that waits and of each list of those at work.
local leased, owners, count, oldest = 0, {}, 0, {redis.call('LINDEX', 'queue:' .. ARGV[1], -1) or nil}
for _, member in ipairs(redis.call('ZRANGE', OWNERS, 0, -1)) do
  local owner, queue = string.match(member, '^([^|]*)|[^|]*|(.*)$')
  if queue == ARGV[1] then
    local job = redis.call('LINDEX', INFLIGHT .. member, -1)
    leased = leased + redis.call('LLEN', INFLIGHT .. member)
    if job then oldest[#oldest + 1] = job end
    if job and not owners[owner] then owners[owner], count = true, count + 1 end
  end
end
local waiting = redis.call('LLEN', 'queue:' .. ARGV[1])
return {waiting, leased, count, redis.call('ZCARD', 'retry'), redis.call('ZCARD', 'schedule'), oldest}
