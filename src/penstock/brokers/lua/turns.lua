-- Turns of ordering keys: of the messages of one key one at a time is handed out by a group, in publish order.
-- Shared by the scripts that hand out or settle for keyed subscriptions; joined behind streams.lua.
-- turns (hash):       'k' .. key  id of the entry whose turn it is, or whose retry it is
--                     'i' .. id   its key, while that entry is in the group: leased, or handed back
--                     'd' .. key  when its retry is due, in ms, and '@' and the set that keeps it: while it is away
-- lanes (sorted set): those parked until their turn comes, with score 0: sorted by key, then by id
-- A parked entry stays pending in the group, held by PARKED. ARRIVING holds what woke a waiting reader: nobody has
-- looked yet whose turn it is. Neither is a process, and nobody reclaims from them.
-- `at` is the group: {stream, group, turns, lanes}, and counts ghosts.
local function place(from, group)
  return {stream = KEYS[1], group = group, turns = KEYS[from], lanes = KEYS[from + 1]}
end

-- The ordering key of an entry, if it has one and is meant for this group; and whose turn it kept, if it is a retry.
local function key_of(fields, group)
  local headers
  for i = 1, #fields, 2 do
    if fields[i] == 'headers' then headers = fields[i + 1] end
  end
  if not headers or not string.find(headers, '"key"', 1, true) then return nil end
  local plain = string.match(headers, '^{"type":"[^"\\]*","attempt":%d+,"enqueuedAt":%d+,"key":"([^"\\]*)"}$')
  if plain then return plain end
  local ok, members = pcall(cjson.decode, headers)
  if not ok or type(members) ~= 'table' or members.retryGroup and members.retryGroup ~= group then return nil end
  local key, turn = members.key, members.retryTurn
  if key == nil or key == cjson.null then return nil end
  if type(key) ~= 'string' then
    ok, key = pcall(cjson.encode, key)
    if not ok then return nil end
  end
  return key, type(turn) == 'string' and turn or nil
end

-- What the members of a key's lane begin with, and what is just behind them all.
local function lane_of(key)
  local name = #key .. ':' .. key
  return name .. ':', name .. ';'
end

-- An entry id as a text that sorts as ids do: before each half, how long it is.
local function sortable(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.char(64 + #ms) .. ms .. string.char(64 + #seq) .. seq
end

local function id_in(member, prefix)
  local from = #prefix + 1
  local size = string.byte(member, from) - 64
  return string.sub(member, from + 1, from + size) .. '-' .. string.sub(member, from + size + 2)
end

-- Give the turn of a key to the next one parked, which may be taken at once. Returns 1, or 0 if there is none.
local function pass_on(at, key)
  local first, last = lane_of(key)
  while true do
    local member = redis.call('ZRANGE', at.lanes, '[' .. first, '(' .. last, 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then
      redis.call('HDEL', at.turns, 'k' .. key)
      return 0
    end
    redis.call('ZREM', at.lanes, member)
    local id = id_in(member, first)
    if leased(at.stream, at.group, id) then -- not if another program acked it
      local there = redis.call('XCLAIM', at.stream, at.group, RELEASED, 0, id, 'IDLE', LONG_AGO, 'JUSTID')
      if #there > 0 then
        redis.call('HSET', at.turns, 'k' .. key, id, 'i' .. id, key)
        return 1
      end
      redis.call('XACK', at.stream, at.group, id)
      at.ghosts = (at.ghosts or 0) + 1
    end
  end
end

-- Entries that are settled for good pass their turns on. Returns how many others may be taken now.
local function give_up(at, ids)
  local ready, waiting = 0, redis.call('EXISTS', at.lanes) == 1
  for from = 1, #ids, SLICE do
    local fields, gone = {}, {}
    for i = from, math.min(from + SLICE - 1, #ids) do fields[#fields + 1] = 'i' .. ids[i] end
    local keys = redis.call('HMGET', at.turns, unpack(fields))
    for i, key in ipairs(keys) do
      if key then
        gone[#gone + 1] = fields[i]
        if waiting then ready = ready + pass_on(at, key) else gone[#gone + 1] = 'k' .. key end
      end
    end
    for i = 1, #gone, SLICE do redis.call('HDEL', at.turns, unpack(gone, i, math.min(i + SLICE - 1, #gone))) end
  end
  return ready
end

-- An entry whose retry is written keeps the turn of its key, under its old id, until the retry comes.
local function go_away(at, id, due, set)
  local key = redis.call('HGET', at.turns, 'i' .. id)
  if not key then return end
  redis.call('HDEL', at.turns, 'i' .. id)
  redis.call('HSET', at.turns, 'd' .. key, due .. '@' .. set)
end

-- Put entries aside, as if this handing-over had not happened. `scored`: their places in the lanes, scores in between.
local function park(at, entries, scored)
  local new = {}
  for _, entry in ipairs(entries) do
    if entry[3] then
      redis.call('XCLAIM', at.stream, at.group, PARKED, 0, entry[1], 'RETRYCOUNT', entry[3] - 1, 'JUSTID')
    else
      new[#new + 1] = entry[1]
    end
  end
  if #new > 0 then
    local last = #new
    new[last + 1], new[last + 2], new[last + 3] = 'RETRYCOUNT', 0, 'JUSTID'
    redis.call('XCLAIM', at.stream, at.group, PARKED, 0, unpack(new))
  end
  if #scored > 0 then redis.call('ZADD', at.lanes, unpack(scored)) end
end

-- Of entries as {id, fields, times handed over, …} that are leased: append to `taken` those that may be handed out;
-- park those whose key is held by another. They come in the order of publishing, at most a thousand (unpack()).
local function admit(at, entries, taken)
  local keys, kept, asked, place_of, holders = {}, {}, {}, {}, {}
  for i, entry in ipairs(entries) do
    local key, turn = key_of(entry[2], at.group)
    keys[i], kept[i] = key or false, turn or false
    if key and not place_of[key] then
      asked[#asked + 1] = 'k' .. key
      place_of[key] = #asked
    end
  end
  if #asked > 0 then holders = redis.call('HMGET', at.turns, unpack(asked)) end
  local sets, parked, scored = {}, {}, {}
  for i, entry in ipairs(entries) do
    local id, key = entry[1], keys[i]
    local holder = key and holders[place_of[key]]
    local mine = key and (not holder or holder == id)
    if holder and not mine and kept[i] == holder then
      mine = redis.call('HDEL', at.turns, 'd' .. key) == 1 -- else its holder is no retry, or not the one of this group
    end
    if mine then
      holders[place_of[key]] = id
      local n = #sets
      sets[n + 1], sets[n + 2], sets[n + 3], sets[n + 4] = 'k' .. key, id, 'i' .. id, key
    end
    if not key or mine then
      taken[#taken + 1] = entry
    else
      parked[#parked + 1] = entry
      local lane, n = lane_of(key), #scored
      scored[n + 1], scored[n + 2] = 0, lane .. sortable(id)
    end
  end
  if #sets > 0 then redis.call('HSET', at.turns, unpack(sets)) end
  park(at, parked, scored)
end
