-- Renew leases that are still the owner's; counts stay as they are.
-- KEYS  1 stream
-- ARGV  1 group   2 owner   3 ms of the lease that count as used up already   4… ids
-- Returns {ids that are no longer the owner's, server time in ms}.
local lost, kept = {}, {}
for i = 4, #ARGV do
  local list = leased(KEYS[1], ARGV[1], ARGV[i], ARGV[2]) and kept or lost
  list[#list + 1] = ARGV[i]
end
for i = 1, #kept, SLICE do
  local slice = {unpack(kept, i, math.min(i + SLICE - 1, #kept))}
  slice[#slice + 1] = 'IDLE'
  slice[#slice + 1] = ARGV[3]
  slice[#slice + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(slice))
end
return {lost, whole(now_ms())}
