-- Take a group's binding back, and the group itself with what it has not read; unless somebody else reads as this group.
-- KEYS  1 rotif:patterns   2 rotif:bound:<pattern>   3 stream   4 its retries
-- ARGV  1 pattern   2 group   3 owner that asks   4 ms without a sign of life after which a reader does not count
-- Returns whether it was done.
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 0 then return 0 end
for i = 3, 4 do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[i], ARGV[2])
  for _, flat in ipairs(consumers.err and {} or consumers) do
    local consumer = {}
    for j = 1, #flat, 2 do consumer[flat[j]] = flat[j + 1] end
    if consumer.name ~= ARGV[3] and not PSEUDO[consumer.name] and consumer.idle < tonumber(ARGV[4]) then return 0 end
  end
end
redis.call('SREM', KEYS[2], ARGV[2])
for i = 3, 4 do
  redis.pcall('XGROUP', 'DESTROY', KEYS[i], ARGV[2])
  if #groups_of(KEYS[i]) == 0 then redis.call('DEL', KEYS[i]) end
end
if redis.call('SCARD', KEYS[2]) == 0 and tonumber(redis.call('ZINCRBY', KEYS[1], -1, ARGV[1])) <= 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('PUBLISH', 'rotif:subscriptions:updates', 'remove:' .. ARGV[1])
end
return 1
