-- Where settle.lua puts a message that comes again, as Rotif does: a name in rotif:scheduled, its body in a key beside.
-- `head` begins with the name, 36 characters long.
local function put_aside(set, due, head, mark, tail)
  local ident = string.sub(head, 1, 36)
  local answer = redis.pcall('SET', 'rotif:delayed:' .. ident, string.sub(head, 37) .. mark .. tail)
  if type(answer) == 'table' and answer.err then return answer end
  return redis.pcall('ZADD', set, due, ident)
end
