-- Put dead letters back into the streams that they came from, as fresh messages with all that they had.
-- KEYS  1 rotif:dlq
-- ARGV  1… ids
-- Returns how many were put back. On a stream with several groups only the one that failed sees it again, if that is
-- known; if it is gone the letter stays, for the others have had the message, and so does one whose stream is none.
local KEPT = {exactlyOnce = true, dedupTTL = true, key = true, headers = true}
local count = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local found = {}
  for i = 1, entry and #entry[2] or 0, 2 do found[entry[2][i]] = entry[2][i + 1] end
  local stream = found.streamKey or 'rotif:stream:' .. (found.channel or '')
  local kind = redis.call('TYPE', stream).ok
  local groups = kind == 'stream' and groups_of(stream) or {}
  local known = not found.group or #groups == 0
  for _, each in ipairs(groups) do known = known or each.name == found.group end
  if found.channel and found.payload and not found.raw and known and (kind == 'stream' or kind == 'none') then
    local time = found.timestamp or whole(math.floor(now_ms()))
    local fields = {'channel', found.channel, 'payload', found.payload, 'timestamp', time, 'attempt', '1'}
    for i = 1, #entry[2], 2 do
      if KEPT[entry[2][i]] then
        fields[#fields + 1], fields[#fields + 2] = entry[2][i], entry[2][i + 1]
      end
    end
    if found.group and #groups > 1 then
      fields[#fields + 1], fields[#fields + 2] = 'retryGroup', found.group
    end
    redis.call('XADD', stream, '*', unpack(fields))
    redis.call('XDEL', KEYS[1], id)
    count = count + 1
  end
end
return count
