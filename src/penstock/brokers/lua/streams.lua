-- Shared by the scripts of the redis_streams driver; the files are joined before they are sent.

-- Consumer that holds what was handed back: its entries may be taken at once, whatever their lease.
local RELEASED = 'released'
-- Consumers of keyed subscriptions (turns.lua): what waits for its turn, and what nobody has looked at yet.
local PARKED, ARRIVING = 'parked', 'arriving'
-- None of these is a process.
local PSEUDO = {[RELEASED] = true, [PARKED] = true, [ARRIVING] = true}
-- Idle time of what was handed back, in ms: ten years, longer than any lease.
local LONG_AGO = '315360000000'
-- unpack() has a limit near 8000.
local SLICE = 4000

-- Server time in ms.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end

local function whole(number)
  return string.format('%.0f', number)
end

-- The score of what is due after `delay` ms: rounded up so that nothing comes early, unless it is due at once.
local function due_after(delay)
  if tonumber(delay) == 0 then return whole(math.floor(now_ms())) end
  return whole(math.ceil(now_ms()) + delay)
end

-- a <= b for two entry ids; both halves may be larger than a double holds exactly.
local function at_most(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if #a_ms ~= #b_ms then return #a_ms < #b_ms end
  if a_ms ~= b_ms then return a_ms < b_ms end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq <= b_seq
end

-- The groups of a stream as {name, last} with the id last delivered; none if there is no stream.
local function groups_of(stream)
  local groups = {}
  local reply = redis.pcall('XINFO', 'GROUPS', stream)
  if reply.err then
    if string.find(reply.err, 'no such key', 1, true) then return groups end
    error(reply.err) -- not knowing the groups is no reason to think there are none
  end
  for i, flat in ipairs(reply) do
    local group = {}
    for j = 1, #flat, 2 do
      if flat[j] == 'name' then group.name = flat[j + 1] end
      if flat[j] == 'last-delivered-id' then group.last = flat[j + 1] end
    end
    groups[i] = group
  end
  return groups
end

-- Whether somebody (or `owner`, if given) holds the entry under a lease of `group`.
local function leased(stream, group, id, owner)
  local reply
  if owner then
    reply = redis.pcall('XPENDING', stream, group, id, id, 1, owner)
  else
    reply = redis.pcall('XPENDING', stream, group, id, id, 1)
  end
  return not reply.err and #reply > 0
end

local function delete(stream, ids)
  for i = 1, #ids, SLICE do
    redis.call('XDEL', stream, unpack(ids, i, math.min(i + SLICE - 1, #ids)))
  end
end

-- The id right behind `id`, or nil where a double cannot count that far.
local function behind(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return #seq < 16 and ms .. '-' .. whole(seq + 1) or nil
end

-- Delete acked entries of the only group. If the first entry of the stream is one of them, then everything from there
-- to the first entry still leased or unread is done, and cutting that off costs a tenth of deleting entry by entry.
local function delete_done(stream, group, ids)
  local first = #ids >= 16 and group and redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local ours = false
  for i = 1, first and #ids or 0 do
    if ids[i] == first[1] then
      ours = true
      break
    end
  end
  local lowest = ours and redis.call('XPENDING', stream, group.name)[2]
  local upto = lowest or ours and behind(group.last)
  if not upto then return delete(stream, ids) end
  redis.call('XTRIM', stream, 'MINID', '=', upto)
  if lowest then
    local rest = {}
    for _, id in ipairs(ids) do
      -- ids of one length compare as texts
      if #id == #lowest and id > lowest or #id ~= #lowest and at_most(lowest, id) then rest[#rest + 1] = id end
    end
    delete(stream, rest)
  end
end

-- Delete acked entries that no group needs any more: each has gone past them and holds none of them.
local function delete_if_done(stream, groups, ids)
  if #ids == 0 then return end
  if #groups <= 1 then return delete_done(stream, groups[1], ids) end
  local doomed = {}
  for _, group in ipairs(groups) do
    group.lowest = redis.call('XPENDING', stream, group.name)[2]
  end
  for _, id in ipairs(ids) do
    local done = true
    for _, group in ipairs(groups) do
      if not at_most(id, group.last)
        or (group.lowest and at_most(group.lowest, id) and leased(stream, group.name, id)) then
        done = false
        break
      end
    end
    if done then doomed[#doomed + 1] = id end
  end
  delete(stream, doomed)
end

-- Hand an entry back as if this handing-over had not happened. `count`: how often it was handed over so far.
local function give_back(stream, group, id, count)
  return #redis.call('XCLAIM', stream, group, RELEASED, 0, id, 'IDLE', LONG_AGO,
    'RETRYCOUNT', math.max(count - 1, 0), 'JUSTID') > 0
end
