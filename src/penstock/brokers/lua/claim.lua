-- Take over entries whose lease has lapsed, or those that were handed back.
-- KEYS  1 stream   2 and 3 turns and lanes (turns.lua), of a keyed subscription: then nobody's turn is overtaken
-- ARGV  1 group   2 new owner   3 ms without a sign of life   4 limit
--       5 and 6: only those handed over more than / fewer than so many times ('' for no bound)
--       7 only those held by this owner ('' for anybody)
-- Returns {entries as {id, fields, times handed over (this one included), last owner, ms of its silence}, number of
-- ghosts}. Ghosts are entries that are leased but no longer exist: they are acked away.
local stream, group, owner = KEYS[1], ARGV[1], ARGV[2]
local idle, limit = ARGV[3], tonumber(ARGV[4])
local above, below = tonumber(ARGV[5]), tonumber(ARGV[6])
local taken, ghosts = {}, {}

local function claim(holder)
  local start = '-'
  while #taken < limit do
    local query = {stream, group, 'IDLE', idle, start, '+', 100}
    if holder ~= '' then query[8] = holder end
    local page = redis.call('XPENDING', unpack(query))
    for _, pending in ipairs(page) do
      local id, count = pending[1], pending[4]
      if #taken < limit and (not above or count > above) and (not below or count < below) then
        local entry = redis.call('XCLAIM', stream, group, owner, idle, id)[1]
        if entry then
          taken[#taken + 1] = {id, entry[2], count + 1, pending[2], pending[3]}
        elseif #redis.call('XRANGE', stream, id, id) == 0 then
          redis.call('XACK', stream, group, id)
          ghosts[#ghosts + 1] = id
        end
      end
    end
    if #page < 100 then break end
    start = '(' .. page[#page][1]
  end
end

if not KEYS[2] then
  claim(ARGV[7])
  return {taken, #ghosts}
end

-- One holder after the other, so that no number of parked entries is in the way
for _, holder in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
  if holder[1] ~= PARKED and holder[1] ~= ARRIVING then claim(holder[1]) end
end
local at, admitted = place(2, group), {}
at.ghosts = #ghosts
give_up(at, ghosts)
admit(at, taken, admitted)
return {admitted, at.ghosts}
