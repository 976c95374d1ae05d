-- Sweep up after one group: owners long gone that hold nothing, entries that every group is done with.
-- KEYS  1 stream
-- ARGV  1 group   2 ms without a sign of life   3 the caller, which stays   4 '1': keep acked entries
-- Returns how many owners and entries were removed. Check and removal are one step: nobody can get a lease between.
local stream, group, removed = KEYS[1], ARGV[1], 0
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then return 0 end
for _, flat in ipairs(consumers) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2])
    and consumer.name ~= ARGV[3] and consumer.name ~= RELEASED then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    removed = removed + 1
  end
end

if ARGV[4] ~= '1' then
  local floor = nil
  for _, each in ipairs(groups_of(stream)) do
    local low = redis.call('XPENDING', stream, each.name)[2] or each.last
    if not floor or at_most(low, floor) then floor = low end
  end
  -- Everything below the lowest id that some group still holds or delivered last
  if floor then removed = removed + redis.call('XTRIM', stream, 'MINID', '=', floor) end
end
return removed
