-- Put a page of turns right that others left wrong: a holder that is gone (acked by another program, its retry deleted).
-- KEYS  1 stream   2 and 3 turns and lanes (turns.lua)   4 sorted set of delayed messages
-- ARGV  1 group   2 cursor into the turns
-- Returns {next cursor, how many messages may be taken now, ghosts}. Parked entries and lanes that do not match are all
-- looked at anew, by the next reader.
local at, delayed = place(2, ARGV[1]), KEYS[4]
local stream, group, ready = at.stream, at.group, 0
local here = nil
for _, each in ipairs(groups_of(stream)) do
  if each.name == group then here = each end
end
if not here then return {'0', 0, 0} end

local parked, arriving = 0, 0
for _, holder in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
  if holder[1] == PARKED then parked = tonumber(holder[2]) end
  if holder[1] == ARRIVING then arriving = tonumber(holder[2]) end
end
local lanes = redis.call('ZCARD', at.lanes)
if parked ~= lanes or lanes > 0 and redis.call('EXISTS', at.turns) == 0 then
  redis.call('DEL', at.lanes)
  while true do
    local page, ids = redis.call('XPENDING', stream, group, '-', '+', 1000, PARKED), {}
    if #page == 0 then break end
    for i, pending in ipairs(page) do ids[i] = pending[1] end
    ids[#ids + 1] = 'JUSTID'
    redis.call('XCLAIM', stream, group, ARRIVING, 0, unpack(ids))
    ready = ready + #page
  end
end

-- A retry that is neither in its set nor unread is nowhere.
local read = nil
local function lost(due, set)
  if set ~= delayed or redis.call('ZCOUNT', delayed, due, due) > 0 then return false end
  if read == nil then read = arriving == 0 and #redis.call('XRANGE', stream, '(' .. here.last, '+', 'COUNT', 1) == 0 end
  return read
end

local page = redis.call('HSCAN', at.turns, ARGV[2], 'COUNT', 200)
for i = 1, #page[2], 2 do
  local field, value = page[2][i], page[2][i + 1]
  local kind, name = string.sub(field, 1, 1), string.sub(field, 2)
  if kind == 'i' and redis.call('HGET', at.turns, 'k' .. value) ~= name then
    redis.call('HDEL', at.turns, field)
  elseif kind == 'k' then
    local away = redis.call('HGET', at.turns, 'd' .. name)
    local due, set = string.match(away or '', '^(%d+)@(.*)$')
    local gone
    if due then gone = lost(due, set) else gone = not leased(stream, group, value) end
    if gone then
      redis.call('HDEL', at.turns, 'i' .. value, 'd' .. name)
      ready = ready + pass_on(at, name)
    end
  end
end
return {page[1], ready, at.ghosts or 0}
