-- Sweep up after one group: owners long gone that hold nothing, entries that every group is done with.
-- KEYS  1 stream
-- ARGV  1 group   2 ms without a sign of life   3 the caller, which stays   4 '1': keep acked entries
--       5 and 6: entries, and ms of age, up to which those acked by all are kept ('' and '': not at all)
--       7 id from which on they are kept (absent or '': it does not matter)
-- Returns how many owners and entries were removed. Check and removal are one step: nobody can get a lease between.
local stream, group, removed = KEYS[1], ARGV[1], 0
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then return 0 end
for _, flat in ipairs(consumers) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2])
    and consumer.name ~= ARGV[3] and not PSEUDO[consumer.name] then
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
  local longest, oldest = tonumber(ARGV[5]), tonumber(ARGV[6])
  local first = ARGV[7] and ARGV[7] ~= '' and ARGV[7]
  if floor and first then
    removed = removed + redis.call('XTRIM', stream, 'MINID', '=', at_most(first, floor) and first or floor)
  end
  if floor and not longest and not oldest and not first then
    removed = removed + redis.call('XTRIM', stream, 'MINID', '=', floor)
  end
  if floor and oldest then
    local young = whole(math.max(math.floor(now_ms() - oldest), 0)) .. '-0'
    removed = removed + redis.call('XTRIM', stream, 'MINID', '=', at_most(young, floor) and young or floor)
  end
  -- A page at a time, and not more than ten: the rest is for the next sweep, so that nobody waits long for this one
  for _ = 1, floor and floor ~= '0-0' and longest and 10 or 0 do
    local excess = redis.call('XLEN', stream) - longest
    if excess <= 0 then break end
    local page, ids = redis.call('XRANGE', stream, '-', '(' .. floor, 'COUNT', math.min(excess, 1000)), {}
    if #page == 0 then break end
    for i, entry in ipairs(page) do ids[i] = entry[1] end
    delete(stream, ids)
    removed = removed + #ids
  end
end
return removed
