-- Delete a page of the entries that nobody holds under a lease.
-- KEYS  1 stream
-- ARGV  1 id to begin with   2 id to end with   3 size of the page
-- Returns {deleted, id to go on with or ''}.
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
local groups, doomed = groups_of(KEYS[1]), {}
for _, entry in ipairs(entries) do
  local id, held = entry[1], false
  for _, group in ipairs(groups) do
    local pending = redis.call('XPENDING', KEYS[1], group.name, id, id, 1)[1]
    if pending and pending[2] == RELEASED then
      redis.call('XACK', KEYS[1], group.name, id)
    elseif pending then
      held = true
    end
  end
  if not held then doomed[#doomed + 1] = id end
end
delete(KEYS[1], doomed)
return {#doomed, #entries == tonumber(ARGV[3]) and '(' .. entries[#entries][1] or ''}
