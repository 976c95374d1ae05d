-- Delete a page of the entries that nobody holds under a lease.
-- KEYS  1 stream   2… turns and lanes (turns.lua) of each group named
-- ARGV  1 id to begin with   2 id to end with   3 size of the page   4… groups
-- Returns {deleted, id to go on with or ''}.
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
local groups, doomed, places = groups_of(KEYS[1]), {}, {}
for i = 4, #ARGV do places[ARGV[i]] = place(2 * i - 6, ARGV[i]) end

-- Take an entry that nobody holds under a lease out of its group.
local function drop(group, entry, holder)
  local at = places[group]
  redis.call('XACK', KEYS[1], group, entry[1])
  if not at then return end
  local key = holder == PARKED and key_of(entry[2], group)
  if key then
    redis.call('ZREM', at.lanes, lane_of(key) .. sortable(entry[1]))
  else
    give_up(at, {entry[1]})
  end
end

for _, entry in ipairs(entries) do
  local id, held = entry[1], false
  for _, group in ipairs(groups) do
    local pending = redis.call('XPENDING', KEYS[1], group.name, id, id, 1)[1]
    if pending and PSEUDO[pending[2]] then
      drop(group.name, entry, pending[2])
    elseif pending then
      held = true
    end
  end
  if not held then doomed[#doomed + 1] = id end
end
delete(KEYS[1], doomed)
return {#doomed, #entries == tonumber(ARGV[3]) and '(' .. entries[#entries][1] or ''}
