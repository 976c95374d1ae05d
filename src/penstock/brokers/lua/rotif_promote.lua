-- Move due messages to the streams that their bodies name, each atomically.
-- KEYS  1 rotif:scheduled   2 rotif:dlq
-- ARGV  1 limit
-- Returns {moved, ms until the next is due (-1: there is none)}. What has no body that can be read becomes a dead letter.
-- Only the texts in a body are used, as they are: cjson never writes anything.
local ORDER = {'channel', 'payload', 'timestamp', 'attempt', 'exactlyOnce', 'dedupTTL'}

local function fields_of(body)
  local ok, item = pcall(cjson.decode, body)
  if not ok or type(item) ~= 'table' then return nil end
  local flat, rest = {}, {}
  for _, name in ipairs(ORDER) do
    local value = item[name]
    if type(value) == 'number' then value = whole(value) elseif type(value) == 'boolean' then value = tostring(value) end
    if type(value) == 'string' then
      flat[#flat + 1], flat[#flat + 2] = name, value
    end
    item[name] = nil
  end
  if flat[1] ~= 'channel' then return nil end
  local stream = item.streamKey
  item.streamKey = nil
  for name, value in pairs(item) do
    if type(name) == 'string' and type(value) == 'string' then rest[#rest + 1] = name end
  end
  table.sort(rest)
  for _, name in ipairs(rest) do
    flat[#flat + 1], flat[#flat + 2] = name, item[name]
  end
  if type(stream) ~= 'string' or stream == '' then stream = 'rotif:stream:' .. flat[2] end
  return flat, stream
end

local now, moved = math.floor(now_ms()), 0
for _, ident in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local body = redis.call('GET', 'rotif:delayed:' .. ident) or (string.sub(ident, 1, 1) == '{' and ident)
  local fields, stream = nil, nil
  if body then fields, stream = fields_of(body) end
  local answer = fields and redis.pcall('XADD', stream, '*', unpack(fields))
  if not answer or type(answer) == 'table' then
    local reason = not body and 'the body of a delayed message is gone' or 'a delayed message cannot be delivered'
    redis.call('XADD', KEYS[2], '*', 'error', reason, 'reason', 'unreadable', 'raw', body or ident)
  else
    moved = moved + 1
  end
  redis.call('DEL', 'rotif:delayed:' .. ident)
  redis.call('ZREM', KEYS[1], ident)
end
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local wait = -1
if head[2] then wait = math.max(0, math.ceil(head[2] - now)) end
return {moved, wait}
