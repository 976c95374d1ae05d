-- Publish one message later, or once only, or both.
-- KEYS  1 stream   2 sorted set of delayed messages   3 idempotency key (absent: publish always)
-- ARGV  1 delay in ms ('' for none)   2 ms for which the idempotency key lives
--       3 id and 4 member of the delayed message   5… fields and values of the entry
-- Returns the id, or what the idempotency key holds already: the first one's id, or another writer's PENDING.
-- The key is written after the message, so a refused message leaves no key behind.
if KEYS[3] then
  local first = redis.call('GET', KEYS[3])
  if first then return first end
end
local id = ARGV[3]
if ARGV[1] == '' then
  id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))
else
  redis.call('ZADD', KEYS[2], due_after(ARGV[1]), ARGV[4])
end
if KEYS[3] then redis.call('SET', KEYS[3], id, 'PX', ARGV[2]) end
return id
