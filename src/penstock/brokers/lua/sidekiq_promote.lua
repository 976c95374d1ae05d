-- Move members of `retry` and `schedule`, each only if it is still there: who removes it has it.
-- ARGV  for each: set, member, and  p queue, new text: into its queue · d: to the dead, as it is · v: nowhere
--       · w seconds: later
-- What its queue does not take (a key of another type) stays where it is, for later.
-- Returns how many were there.
local REFUSED = 60 -- seconds
local count, i = 0, 1
while i <= #ARGV do
  local set, member, letter = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  i = i + 3
  local there
  if letter == 'w' then
    there = redis.call('ZADD', set, 'XX', 'CH', score_after(tonumber(ARGV[i])), member)
  else
    there = redis.call('ZREM', set, member)
  end
  if there == 1 then
    count = count + 1
    local done = true
    if letter == 'p' then done = enqueue(ARGV[i], ARGV[i + 1]) end
    if letter == 'd' then done = add('dead', score_after(0), member) end
    if not done then redis.call('ZADD', set, score_after(REFUSED), member) end
  end
  i = i + (letter == 'p' and 2 or letter == 'w' and 1 or 0)
end
return count
