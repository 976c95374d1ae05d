-- What people do to jobs in `retry`, `schedule` and `dead`, each only if it is still there: who removes a job has it,
-- so a second click, or a poller of Ruby's in between, does nothing twice. Nothing is read and written anew here.
-- ARGV  1 most dead jobs, 0 not to trim them now   2 seconds that dead jobs are kept
--       then for each: set, member, and  p queue, new text: into its queue · d: to the dead · v: nowhere
--       · s score: to another time · k: to the dead from outside, whether it is in the set or not
-- Returns 1 for each that was there, else 0. What Redis refuses (a key of another type) stays where it was, and is the
-- answer to the whole call: what comes after it is not done.
local done, buried, refused = {}, false, nil
local i = 3
while i <= #ARGV do
  local set, member, letter = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  i = i + 3
  local score = letter ~= 'k' and redis.call('ZSCORE', set, member)
  local there, moved, wrong = (score or letter == 'k') and 1 or 0, true, nil
  if there == 1 then
    if letter == 's' then
      redis.call('ZADD', set, 'XX', ARGV[i], member)
    elseif letter ~= 'k' then
      redis.call('ZREM', set, member)
    end
    if letter == 'p' then moved, wrong = enqueue(ARGV[i], ARGV[i + 1]) end
    if letter == 'd' then moved, wrong = add('dead', score_after(0), member) end
    if letter == 'k' then moved, wrong = attempt('ZADD', 'dead', score_after(0), member) end
    if not moved then
      there, refused = 0, wrong
      if score then redis.call('ZADD', set, score, member) end
    elseif letter == 'd' or letter == 'k' then
      buried = true
    end
  end
  done[#done + 1] = there
  i = i + (letter == 'p' and 2 or letter == 's' and 1 or 0)
end
if (buried or #done == 0) and tonumber(ARGV[1]) > 0 then
  redis.call('ZREMRANGEBYSCORE', 'dead', '-inf', score_after(-tonumber(ARGV[2])))
  redis.call('ZREMRANGEBYRANK', 'dead', 0, -tonumber(ARGV[1]))
end
return refused or done
