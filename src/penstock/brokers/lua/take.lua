-- Take messages of a keyed subscription: what was handed back or has got its turn, what woke a reader, what is new.
-- KEYS  1 stream   2 and 3 turns and lanes (turns.lua)
-- ARGV  1 group   2 owner   3 limit   4 entries to look at
-- Returns {entries as {id, fields} or {id, fields, times handed over (this one included), last owner, ms of its
-- silence}, number of ghosts, '1' if there may be more}. New ones are not read before those that arrived earlier.
local at, owner = place(2, ARGV[1]), ARGV[2]
local limit, left = tonumber(ARGV[3]), tonumber(ARGV[4])
local stream, group, taken = at.stream, at.group, {}
at.ghosts = 0

local function room()
  return math.min(limit - #taken, left)
end

-- Whether there was any.
local function take_from(holder)
  local page, entries, gone = redis.call('XPENDING', stream, group, '-', '+', room(), holder), {}, {}
  for _, pending in ipairs(page) do
    local id, count = pending[1], pending[4]
    local entry
    if holder == ARRIVING then
      entry = redis.call('XCLAIM', stream, group, owner, 0, id, 'RETRYCOUNT', 1)[1]
      if entry then entries[#entries + 1] = {id, entry[2]} end
    else
      entry = redis.call('XCLAIM', stream, group, owner, 0, id)[1]
      if entry then entries[#entries + 1] = {id, entry[2], count + 1, holder, pending[3]} end
    end
    if not entry then
      redis.call('XACK', stream, group, id)
      gone[#gone + 1] = id
      at.ghosts = at.ghosts + 1
    end
  end
  if #gone > 0 then give_up(at, gone) end
  if #entries > 0 then admit(at, entries, taken) end
  left = left - #page
  return #page > 0
end

for _, holder in ipairs({RELEASED, ARRIVING}) do
  while room() > 0 and take_from(holder) do end
end
while room() > 0 do
  local reply = redis.call('XREADGROUP', 'GROUP', group, owner, 'COUNT', room(), 'STREAMS', stream, '>')
  if not reply then break end
  left = left - #reply[1][2]
  admit(at, reply[1][2], taken)
end
return {taken, at.ghosts, left <= 0 and '1' or ''}
