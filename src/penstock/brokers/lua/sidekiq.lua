-- Shared by the scripts of the sidekiq driver; the files are joined before they are sent.

-- What is taken and not settled: a list for each owner, reader and queue, the newest at its head.
local INFLIGHT = 'pq:inflight:'
-- Those lists, by the ms since the epoch until which their owner's lease runs.
local OWNERS = 'pq:procs'
-- How many owners died with a job: SHA-1 of its text → count.
local CRASHES, CRASHES_KEPT = 'pq:recovered', 259200
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

-- What Redis refuses in the middle of a script (a key of another type, a right that is missing) stays as it was. Memory is
-- no reason: once a script has written, Redis refuses it nothing for that.
local function attempt(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return nil, reply end
  return reply
end

-- Returns nothing and the error if it cannot be.
local function enqueue(queue, raw)
  redis.call('SADD', 'queues', queue)
  return attempt('LPUSH', 'queue:' .. queue, raw)
end

-- Into a sorted set, where equal jobs must not become one: whoever comes second gets a field that tells it from the first.
-- Returns nothing and the error if it cannot be.
local function add(set, score, raw)
  local member, number = raw, 1
  while true do
    local added, wrong = attempt('ZADD', set, 'NX', score, member)
    if added ~= 0 or string.sub(raw, -1) ~= '}' then return added, wrong end
    number = number + 1
    member = string.sub(raw, 1, -2) .. ',"penstock_copy":' .. number .. '}'
  end
end

-- Where a reader's jobs are that are to lapse while others live on, by its list of jobs.
local function shelf_of(list)
  return (string.gsub(list, '^(' .. INFLIGHT .. '[^|]*|[^|]*)|', '%1s|', 1))
end

-- Put everything of a list back, so that the oldest is the next one out. Returns nothing if it cannot be.
local function give_back(list, queue)
  local count = redis.call('LLEN', list)
  if count > 0 then redis.call('SADD', 'queues', queue) end
  for _ = 1, count do
    if not attempt('LMOVE', list, 'queue:' .. queue, 'LEFT', 'RIGHT') then return end
  end
  return count
end
