-- Hand back what an owner holds, uncounted, and let it leave the group.
-- KEYS  1 stream
-- ARGV  1 group   2 owner   3 '1': leave the group afterwards   4 ms for which the owner has lived: what it has held
--       for longer was an earlier bearer's of its name, who crashed, and that counts   5… ids (none: all it holds)
-- Returns how many were handed back. An owner that holds anything is never removed: that would destroy its leases.
local stream, group, owner = KEYS[1], ARGV[1], ARGV[2]
local oldest, released = tonumber(ARGV[4]), 0

local function release(page)
  for _, pending in ipairs(page) do
    if pending[3] <= oldest and give_back(stream, group, pending[1], pending[4]) then released = released + 1 end
  end
end

if #ARGV > 4 then
  for i = 5, #ARGV do
    release(redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1, owner))
  end
else
  local start, page = '-', nil
  repeat
    page = redis.call('XPENDING', stream, group, start, '+', 1000, owner)
    release(page)
    if #page > 0 then start = '(' .. page[#page][1] end
  until #page < 1000
end
if ARGV[3] == '1' and #redis.call('XPENDING', stream, group, '-', '+', 1, owner) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, owner)
end
return released
