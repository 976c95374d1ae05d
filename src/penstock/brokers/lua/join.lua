-- Make a group, unless it is there; of a work queue, unless another one is.
-- KEYS  1 stream   2… what was kept for a former group of that name
-- ARGV  1 group   2 id to begin with   3 '1': there must be no other
-- Returns the name of another group, or ''. Look and creation are one step: of two that start at once one is refused.
local there = false
for _, group in ipairs(groups_of(KEYS[1])) do
  if ARGV[3] == '1' and group.name ~= ARGV[1] then return group.name end
  there = there or group.name == ARGV[1]
end
if not there then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
  if KEYS[2] then redis.call('DEL', unpack(KEYS, 2)) end
end
return ''
