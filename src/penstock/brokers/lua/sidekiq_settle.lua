-- Apply outcomes. What is not in its owner's list any more is somebody else's: nothing is done for it.
-- ARGV  1 most dead jobs   2 seconds that dead jobs are kept   3 day, UTC, for the statistics
--       then for each outcome: its letter, the list, the job, and
--       a done · x given up and not kept · q back to its queue: queue · r retry: delay, new text
--       s later, no failure: delay, new text · d dead: new text.  A capital letter: the crashes of the job are history.
-- What Redis refuses (a key of another type) stays in its owner's list, and is the answer to the whole call.
-- Returns 1 for each outcome that was applied, else 0.
local applied, processed, failed, buried, refused = {}, 0, 0, false, nil
local i = 4
while i <= #ARGV and not refused do
  local letter, list, job = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local kind = string.lower(letter)
  i = i + 3
  local ours, done = redis.call('LREM', list, -1, job), true
  if ours == 0 then ours = redis.call('LREM', shelf_of(list), -1, job) end
  applied[#applied + 1] = ours
  if kind == 'q' then
    if ours == 1 then
      redis.call('SADD', 'queues', ARGV[i])
      done, refused = attempt('RPUSH', 'queue:' .. ARGV[i], job)
    end
    i = i + 1
  elseif kind == 'r' or kind == 's' then
    if ours == 1 then
      done, refused = add(kind == 'r' and 'retry' or 'schedule', score_after(tonumber(ARGV[i])), ARGV[i + 1])
      if done and kind == 'r' then processed, failed = processed + 1, failed + 1 end
    end
    i = i + 2
  elseif kind == 'd' then
    if ours == 1 then
      done, refused = add('dead', score_after(0), ARGV[i])
      if done then processed, failed, buried = processed + 1, failed + 1, true end
    end
    i = i + 1
  elseif ours == 1 then
    processed = processed + 1
    if kind == 'x' then failed = failed + 1 end
  end
  if not done then redis.call('LPUSH', list, job) end
  if done and letter ~= kind and ours == 1 then redis.call('HDEL', CRASHES, redis.sha1hex(job)) end
end
if buried then
  redis.call('ZREMRANGEBYSCORE', 'dead', '-inf', score_after(-tonumber(ARGV[2])))
  redis.call('ZREMRANGEBYRANK', 'dead', 0, -tonumber(ARGV[1]))
end
local function count(name, number)
  if number == 0 then return end
  redis.call('INCRBY', 'stat:' .. name, number)
  redis.call('INCRBY', 'stat:' .. name .. ':' .. ARGV[3], number)
  redis.call('EXPIRE', 'stat:' .. name .. ':' .. ARGV[3], 157680000)
end
count('processed', processed)
count('failed', failed)
return refused or applied
