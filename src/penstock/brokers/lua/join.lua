-- Make the only group of a work queue, unless it is there or another one is.
-- KEYS  1 stream
-- ARGV  1 group   2 id to begin with
-- Returns the name of another group, or ''. Look and creation are one step: of two that start at once one is refused.
local there = false
for _, group in ipairs(groups_of(KEYS[1])) do
  if group.name ~= ARGV[1] then return group.name end
  there = true
end
if not there then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM') end
return ''
