-- Publish one message to the streams of all patterns that match its channel, now or later: to all of them or none.
-- KEYS  1 rotif:patterns   2 rotif:channels   3 rotif:scheduled
-- ARGV  1 digest of the patterns that the caller has compared ('': it knows the streams)   2 channel
--       3 delay in ms ('' for none)   4 seconds for which the dedup keys live ('' for none)   5 '1': they hold '1', not the id
--       6 and 7 the body of a delayed message, before and behind the name of its stream
--       8 number of fields and values, then those, then for each stream: stream, its name as JSON, dedup key, uuid
-- Returns one id for each stream ('=' and what the key holds, where the dedup key is there), or {'', pattern, …}: those
-- that there are now. Whatever is refused is refused before the first write.
local CHANNELS = 10000 -- names in the index of channels, which only people read
if ARGV[1] ~= '' then
  local patterns = redis.call('ZRANGEBYSCORE', KEYS[1], 1, '+inf')
  if redis.sha1hex(table.concat(patterns, '\0')) ~= ARGV[1] then
    table.insert(patterns, 1, '')
    return patterns
  end
end
local count, ids = tonumber(ARGV[8]), {}
local fields = {unpack(ARGV, 9, 8 + count)}
for i = 9 + count, #ARGV, 4 do
  local kind = redis.call('TYPE', ARGV[i]).ok
  if ARGV[3] == '' and kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. ARGV[i] .. ' is no stream')
  end
end
if #ARGV > 8 + count and redis.call('ZADD', KEYS[2], 0, ARGV[2]) == 1 and redis.call('ZCARD', KEYS[2]) > CHANNELS then
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -CHANNELS - 1)
end
for i = 9 + count, #ARGV, 4 do
  local stream, once, id = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local first = once ~= '' and redis.call('GET', once)
  if first then
    id = '=' .. first
  else
    if ARGV[3] == '' then
      id = redis.call('XADD', stream, '*', unpack(fields))
    else
      redis.call('SET', 'rotif:delayed:' .. id, ARGV[6] .. ARGV[i + 1] .. ARGV[7])
      redis.call('ZADD', KEYS[3], due_after(ARGV[3]), id)
    end
    if once ~= '' then redis.call('SET', once, ARGV[5] == '1' and '1' or id, 'PX', ARGV[4]) end
  end
  ids[#ids + 1] = id
end
return ids
