-- Where settle.lua puts a message that comes again: a member of the sorted set, in three parts.
local function put_aside(set, due, head, mark, tail)
  return redis.pcall('ZADD', set, due, head .. mark .. tail)
end
