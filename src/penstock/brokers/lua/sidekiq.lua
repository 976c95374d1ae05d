-- Shared by the scripts of the sidekiq driver; the files are joined before they are sent.

-- What is taken and not settled: a list for each owner, reader and queue, the newest at its head.
local INFLIGHT = 'pq:inflight:'
-- Those lists, by the ms since the epoch until which their owner's lease runs.
local OWNERS = 'pq:procs'
-- How many owners died with a job: SHA-1 of its text → count.
local CRASHES, CRASHES_KEPT = 'pq:recovered', 259200
-- Set beside a list from which somebody has taken lapsed jobs: its owner must look before it believes in its leases.
local ROBBED, ROBBED_KEPT = 'pq:robbed:', 86400
local SLICE = 4000 -- unpack() has a limit near 8000

-- Server time in ms.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Server time in seconds, as a score, `delay` seconds from now.
local function score_after(delay)
  local time = redis.call('TIME')
  return string.format('%.6f', time[1] + time[2] / 1000000 + delay)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function push_left(list, members)
  for i = 1, #members, SLICE do
    redis.call('LPUSH', list, unpack(members, i, math.min(i + SLICE - 1, #members)))
  end
end

-- How often a job was handed over so far, one that is waiting included in neither.
local function crashes(raw)
  return tonumber(redis.call('HGET', CRASHES, redis.sha1hex(raw)) or 0)
end

local function crashed(raw)
  redis.call('EXPIRE', CRASHES, CRASHES_KEPT)
  local count = redis.call('HINCRBY', CRASHES, redis.sha1hex(raw), 1)
  if count == 1 then redis.call('EXPIRE', CRASHES, CRASHES_KEPT) end
  return count
end

local function enqueue(queue, raw)
  redis.call('SADD', 'queues', queue)
  redis.call('LPUSH', 'queue:' .. queue, raw)
end

-- Put everything of a list back, so that the oldest is the next one out.
local function give_back(list, queue)
  local count = redis.call('LLEN', list)
  if count > 0 then redis.call('SADD', 'queues', queue) end
  for _ = 1, count do
    redis.call('LMOVE', list, 'queue:' .. queue, 'LEFT', 'RIGHT')
  end
  return count
end
