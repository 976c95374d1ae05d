-- Put dead letters back into the stream as fresh messages.
-- KEYS  1 dead-letter stream   2 stream
-- ARGV  pairs of id and new headers
-- Returns how many were there. Written first, deleted after: an error leaves the dead letter where it is.
local count = 0
for i = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    for j = 1, #entry[2], 2 do
      if entry[2][j] == 'payload' then
        redis.call('XADD', KEYS[2], '*', 'headers', ARGV[i + 1], 'payload', entry[2][j + 1])
        redis.call('XDEL', KEYS[1], ARGV[i])
        count = count + 1
        break
      end
    end
  end
end
return count
