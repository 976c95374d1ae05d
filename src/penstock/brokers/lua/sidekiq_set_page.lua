-- The next members of a sorted set, highest score first, after one that was seen: found by where it stands, or would
-- stand, so that what others add and remove meanwhile makes nothing be skipped or shown twice.
-- KEYS  1 the set
-- ARGV  1 how many   and, but for the first page  2 score   3 member last seen
-- Returns members and scores by turns.
-- Bytes are compared one by one: Lua's own comparison follows the server's locale, Redis's order does not.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local start = 0
if ARGV[2] then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[3])
  local score = rank and redis.call('ZSCORE', KEYS[1], ARGV[3])
  if rank and tonumber(score) == tonumber(ARGV[2]) then
    start = rank + 1
  else -- it is gone: go to where it was
    start = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[2], '+inf')
    while true do
      local one = redis.call('ZREVRANGE', KEYS[1], start, start, 'WITHSCORES')
      if not one[1] or tonumber(one[2]) ~= tonumber(ARGV[2]) or before(one[1], ARGV[3]) then break end
      start = start + 1
    end
  end
end
return redis.call('ZREVRANGE', KEYS[1], start, start + tonumber(ARGV[1]) - 1, 'WITHSCORES')
