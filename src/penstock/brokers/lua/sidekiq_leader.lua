-- One leader of all processes: whoever holds the key, for as long as it renews it.
-- ARGV  1 identity   2 seconds that the claim lasts; 0: resign
-- Returns 1 if the leader is `identity` now.
local leader = redis.call('GET', 'dear-leader')
if ARGV[2] == '0' then
  if leader == ARGV[1] then redis.call('DEL', 'dear-leader') end
  return 0
end
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', 'dear-leader', ARGV[1], 'EX', ARGV[2])
return 1
