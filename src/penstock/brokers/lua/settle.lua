-- Apply a batch of outcomes of one group, each whole or not at all.
-- KEYS  1 stream   2 sorted set of delayed messages   3 dead-letter stream
--       4 and 5 turns and lanes (turns.lua), of a keyed subscription
-- ARGV  1 group   2 owner   3 server time in ms from which on it is to be checked that the owner still is the owner
--       4 '1': keep acked entries   5 '1': the server may know XACKDEL
--       6 number of plain acks, then their ids, then for each other outcome:
--         'later', id, delay in ms, what comes again in three parts (the middle one only if there are several groups),
--           which put_aside knows how to keep (later.lua, or its like)
--         'dead', id, number of fields and values, fields and values
--         'release', id, how often it was handed over
--         'several', id, number of arguments, and so many: 'later' and 'dead' as above but without the id, for the
--         messages of one entry; it is acked when all of them are written
-- Returns {ids that are no longer the owner's, first error or '', ids it befell, '1' if XACKDEL is not for us, of a keyed
-- subscription how many others got their turn, and how many ghosts were next}. What is written elsewhere is written
-- before the ack: an error then leaves the entry leased, not lost.
local call, stream, group, owner = redis.call, KEYS[1], ARGV[1], ARGV[2]
local check, keep = now_ms() >= tonumber(ARGV[3]), ARGV[4] == '1'
local lost, done, failed, problem = {}, {}, {}, ''
local turns = KEYS[4] and place(4, group)
local plain = tonumber(ARGV[6])

-- XACKDEL does what is below for acks that need no check; it is one command, whatever the number of groups.
local reply, unknown = nil, ''
if plain > 0 and not check and not keep and ARGV[5] == '1' then
  reply = redis.pcall('XACKDEL', stream, group, 'ACKED', 'IDS', plain, unpack(ARGV, 7, 6 + plain))
  if reply.err then reply, unknown = nil, '1' end
end
-- Before anything is written: it may be refused
local groups = not keep and (not reply or #ARGV > 6 + plain) and groups_of(stream)

local function acknowledge(id)
  if call('XACK', stream, group, id) == 1 then
    done[#done + 1] = id
  else
    lost[#lost + 1] = id
  end
end

local function later(id, at)
  groups = groups or groups_of(stream)
  local due = due_after(ARGV[at])
  local answer = put_aside(KEYS[2], due, ARGV[at + 1], #groups > 1 and ARGV[at + 2] or '', ARGV[at + 3])
  if turns and type(answer) == 'number' then go_away(turns, id, due, KEYS[2]) end
  return answer
end

local at = 7 + plain
for i = 7, at - 1 do
  local id = ARGV[i]
  if reply then
    if reply[i - 6] < 0 then lost[#lost + 1] = id end
  elseif check and not leased(stream, group, id, owner) then
    lost[#lost + 1] = id
  elseif call('XACK', stream, group, id) == 1 then
    done[#done + 1] = id
  else
    lost[#lost + 1] = id
  end
end

local function several(id, at)
  local last, answer = at + ARGV[at], 0
  at = at + 1
  while at <= last and not (type(answer) == 'table' and answer.err) do
    if ARGV[at] == 'later' then
      answer = later(id, at + 1)
      at = at + 5
    else
      answer = redis.pcall('XADD', KEYS[3], '*', unpack(ARGV, at + 2, at + 1 + ARGV[at + 1]))
      at = at + 2 + ARGV[at + 1]
    end
  end
  return answer
end

while at <= #ARGV do
  local kind, id = ARGV[at], ARGV[at + 1]
  local size = kind == 'later' and 4 or kind == 'release' and 1 or 1 + ARGV[at + 2]
  at = at + 2
  if not leased(stream, group, id, check and owner or nil) then
    lost[#lost + 1] = id
  elseif kind == 'release' then
    if not give_back(stream, group, id, tonumber(ARGV[at])) then lost[#lost + 1] = id end
  else
    local answer
    if kind == 'later' then
      answer = later(id, at)
    elseif kind == 'several' then
      answer = several(id, at)
    else
      answer = redis.pcall('XADD', KEYS[3], '*', unpack(ARGV, at + 1, at + ARGV[at]))
    end
    if type(answer) == 'table' and answer.err then
      failed[#failed + 1], problem = id, problem ~= '' and problem or answer.err
    else
      acknowledge(id)
    end
  end
  at = at + size
end

if not keep and #done > 0 then delete_if_done(stream, groups, done) end
if not turns then return {lost, problem, failed, unknown} end

for i = 1, reply and #reply or 0 do
  if reply[i] >= 0 then done[#done + 1] = ARGV[i + 6] end
end
return {lost, problem, failed, unknown, give_up(turns, done), turns.ghosts or 0}
