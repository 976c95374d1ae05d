-- Take over what silent owners hold. What lies in queues that this reader does not read goes back to them, after a grace
-- in which their own readers may come for it.
-- ARGV  1 limit   2 lease in ms   3 owner|reader|   4 more crashes than this ('' for any)   5 fewer than this ('')
--       6 grace in ms   7 owner|shelf of the reader|   8… queues
-- Returns for each job: queue, job, how often it was handed over before, its owner, ms since he was heard of, and how
-- many like it are in this reader's own lists besides; and the queues for which the reader's own lease had lapsed: what it
-- had of them is on its shelf now.
local now, left, found = now_ms(), tonumber(ARGV[1]), {}
local above, below = tonumber(ARGV[4]), tonumber(ARGV[5])
local ours, shelved = {}, {}
for i = 8, #ARGV do
  local queue = ARGV[i]
  local member, shelf = ARGV[3] .. queue, ARGV[7] .. queue
  local ends = redis.call('ZSCORE', OWNERS, member)
  ours[queue] = true
  if ends and tonumber(ends) <= now then
    while redis.call('LMOVE', INFLIGHT .. member, INFLIGHT .. shelf, 'RIGHT', 'LEFT') do end
    redis.call('ZREM', OWNERS, member)
    redis.call('ZADD', OWNERS, 'LT', ends, shelf)
    shelved[#shelved + 1] = queue
  end
end

local function take(member, queue, silent)
  local list, mine = INFLIGHT .. member, INFLIGHT .. ARGV[3] .. queue
  local jobs = redis.call('LRANGE', list, 0, -1)
  for j = #jobs, 1, -1 do
    if left <= 0 then return end
    local job = jobs[j]
    local handed = crashes(job) + 1
    if not (above and handed <= above) and not (below and handed >= below) then
      redis.call('LREM', list, -1, job)
      local like = #redis.call('LPOS', mine, job, 'COUNT', 0)
        + #redis.call('LPOS', INFLIGHT .. ARGV[7] .. queue, job, 'COUNT', 0)
      redis.call('LPUSH', mine, job)
      crashed(job)
      left = left - 1
      found[#found + 1] = {queue, job, handed, string.match(member, '^[^|]*'), silent, like}
    end
  end
end

for _, member in ipairs(redis.call('ZRANGE', OWNERS, '-inf', whole(now), 'BYSCORE')) do
  if left <= 0 then break end
  local queue = string.match(member, '^[^|]*|[^|]*|(.*)$')
  local late = now - tonumber(redis.call('ZSCORE', OWNERS, member))
  if ours[queue] then
    local before = left
    take(member, queue, late + ARGV[2])
    if left < before then redis.call('ZADD', OWNERS, whole(now + ARGV[2]), ARGV[3] .. queue) end
  elseif queue and late > tonumber(ARGV[6]) then
    for _, job in ipairs(redis.call('LRANGE', INFLIGHT .. member, 0, -1)) do crashed(job) end
    give_back(INFLIGHT .. member, queue)
  end
  if redis.call('EXISTS', INFLIGHT .. member) == 0 then redis.call('ZREM', OWNERS, member) end
end
return {found, shelved}
