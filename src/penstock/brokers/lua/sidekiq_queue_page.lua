-- The next jobs of a queue, newest first, after those of the page before: found by looking where the last of them
-- that is still there has gone to, so that pushes and deletions meanwhile make nothing be skipped or shown twice.
-- KEYS  1 the queue's list
-- ARGV  1 how many   2 where to begin if nothing has moved   then the page before, the last one first
-- Returns where the page begins, and its jobs.
local key, start = KEYS[1], tonumber(ARGV[2])
if ARGV[3] and redis.call('LINDEX', key, start - 1) ~= ARGV[3] then
  local found
  for i = 3, #ARGV do
    found = redis.call('LPOS', key, ARGV[i])
    if found then break end
  end
  start = found and found + 1 or math.max(start - (#ARGV - 2), 0)
end
return {start, redis.call('LRANGE', key, start, start + tonumber(ARGV[1]) - 1)}
