-- Take a group's binding back, and the group itself with what it has not read; unless somebody else reads as this group.
-- KEYS  1 rotif:patterns   2 rotif:bound:<pattern>   3 rotif:readers:<pattern>   4 stream   5 its retries
-- ARGV  1 pattern   2 group   3 owner that asks
-- Returns whether it was done. While the original counts subscribers of the pattern, the group may be theirs: it stays.
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 0 then return 0 end
local now, own = math.floor(now_ms()), ARGV[2] .. '\0'
redis.call('ZREM', KEYS[3], own .. ARGV[3])
for _, reader in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. whole(now), '+inf')) do
  if string.sub(reader, 1, #own) == own then return 0 end
end
redis.call('SREM', KEYS[2], ARGV[2])
local last = redis.call('SCARD', KEYS[2]) == 0
local count = tonumber(redis.call('ZINCRBY', KEYS[1], last and -1 or 0, ARGV[1]))
if count <= (last and 0 or 1) then
  for i = 4, 5 do
    redis.pcall('XGROUP', 'DESTROY', KEYS[i], ARGV[2])
    if #groups_of(KEYS[i]) == 0 then redis.call('DEL', KEYS[i]) end
  end
end
if count <= 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('PUBLISH', 'rotif:subscriptions:updates', 'remove:' .. ARGV[1])
end
return 1
