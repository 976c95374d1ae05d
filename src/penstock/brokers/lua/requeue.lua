-- Put dead letters back into the stream as fresh messages.
-- KEYS  1 dead-letter stream   2 stream
-- ARGV  for each: its id, number of fields and values, fields and values of the fresh message
-- Returns how many were there. Written first, deleted after: an error leaves the dead letter where it is.
local count, at = 0, 1
while at <= #ARGV do
  local size = tonumber(ARGV[at + 1])
  if #redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at]) > 0 then
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 2, at + 1 + size))
    redis.call('XDEL', KEYS[1], ARGV[at])
    count = count + 1
  end
  at = at + 2 + size
end
return count
