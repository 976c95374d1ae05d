-- Move due messages from the sorted set to their stream, each atomically.
-- KEYS  1 sorted set   2 stream   3 dead-letter stream
-- ARGV  1 limit   2 handledBy of those that cannot be read   3… members to move, whatever stream they name
-- Returns {moved, ms until the next is due (-1: there is none), members of other streams as name, member, …}.
-- Only the texts in a member are used, as they are: cjson never writes anything.
local function fields_of(member)
  local ok, item = pcall(cjson.decode, member)
  if not ok or type(item) ~= 'table' or type(item.fields) ~= 'table' then return nil end
  local names, flat = {}, {}
  for name, value in pairs(item.fields) do
    if type(name) ~= 'string' or type(value) ~= 'string' then return nil end
    if name ~= 'headers' and name ~= 'payload' then names[#names + 1] = name end
  end
  table.sort(names)
  if item.fields.payload then table.insert(names, 1, 'payload') end
  if item.fields.headers then table.insert(names, 1, 'headers') end
  for _, name in ipairs(names) do
    flat[#flat + 1] = name
    flat[#flat + 1] = item.fields[name]
  end
  return #flat > 0 and flat or nil, item.stream
end

local now = math.floor(now_ms())
local named, members = #ARGV > 2, {}
if named then
  for i = 3, #ARGV do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) then members[#members + 1] = ARGV[i] end
  end
else
  members = redis.call('ZRANGE', KEYS[1], '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, ARGV[1])
end

local moved, elsewhere = 0, {}
for _, member in ipairs(members) do
  local fields, stream = fields_of(member)
  if fields and not named and type(stream) == 'string' and stream ~= '' and stream ~= KEYS[2] then
    elsewhere[#elsewhere + 1] = stream
    elsewhere[#elsewhere + 1] = member
  else
    if fields then
      redis.call('XADD', KEYS[2], '*', unpack(fields))
      moved = moved + 1
    else
      redis.call('XADD', KEYS[3], '*', 'error', '{"reason":"unreadable"}', 'handledBy', ARGV[2], 'raw', member)
    end
    redis.call('ZREM', KEYS[1], member)
  end
end

local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local wait = -1
if head[2] then wait = math.max(0, math.ceil(head[2] - now)) end
return {moved, wait, elsewhere}
