-- What is due in `retry` and `schedule`, by the server's clock.
-- ARGV  1 limit
-- Returns the due members of `retry`, those of `schedule`, and the ms until the next one is due (-1: there is none).
local now, left, found, soonest = score_after(0), tonumber(ARGV[1]), {}, nil
for i, set in ipairs({'retry', 'schedule'}) do
  found[i] = left > 0 and redis.call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, left) or {}
  left = left - #found[i]
  local following = redis.call('ZRANGE', set, '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  if following and (not soonest or tonumber(following) < soonest) then soonest = tonumber(following) end
end
return {found[1], found[2], soonest and whole(math.ceil((soonest - now) * 1000)) or '-1'}
