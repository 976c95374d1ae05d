-- Publish one job that is delayed, or that is to be published once.
-- ARGV  1 queue   2 job   3 its jid   4 seconds of delay ('' for none)   5 key of the once-lock ('' for none)   6 its ms
-- Returns the jid of the job that is there now.
if ARGV[5] ~= '' then
  if not redis.call('SET', ARGV[5], ARGV[3], 'NX', 'PX', ARGV[6]) then return redis.call('GET', ARGV[5]) end
end
local done, wrong
if ARGV[4] == '' then
  done, wrong = enqueue(ARGV[1], ARGV[2])
else
  done, wrong = add('schedule', score_after(tonumber(ARGV[4])), ARGV[2])
end
if not done then
  if ARGV[5] ~= '' then redis.call('DEL', ARGV[5]) end
  return wrong
end
return ARGV[3]
