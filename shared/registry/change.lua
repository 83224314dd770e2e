-- Change the aliases of one loop and log it, atomically: the only place where an alias ever changes.
-- KEYS: aliases, log, versions, collected.
-- ARGV: action, version, actor, reason, expected epoch or '', force ('1' or ''), extra fields as JSON or '', for
-- 'record' the action to write down, and has history ('1' or '').
-- Answers {verdict, detail, aliases as a flat list}; verdict is 'done', 'same', 'unknown', 'collected', 'pinned',
-- 'moved', 'nothing' or 'lost' (the loop has a history that this Redis does not know; nothing was written).
local action, version, actor, reason, expected, force, extra, recorded, has_history = unpack(ARGV)

local state = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
if not string.match(state.epoch or '0', '^%d+$') then
  return redis.error_reply('the epoch is damaged: `ratchet registry restore` brings it back')
end
local epoch = tonumber(state.epoch or '0')
local champion = state.champion or ''
local pinned = state.pinned or ''

local function answer(verdict, detail)
  return {verdict, detail or '', redis.call('HGETALL', KEYS[1])}
end

if has_history == '1' and not state.epoch then return answer('lost') end

-- The champions before this one, newest first, as 'v3,v2,v1': where rollbacks go, step by step.
local history = {}
for name in string.gmatch(state.history or '', '[^,]+') do table.insert(history, name) end

local function usable(name)
  return redis.call('ZSCORE', KEYS[3], name) and redis.call('SISMEMBER', KEYS[4], name) == 0
end

local function point(name, value)
  if value == '' then redis.call('HDEL', KEYS[1], name) else redis.call('HSET', KEYS[1], name, value) end
end

local function enthrone(name)
  if champion ~= '' then table.insert(history, 1, champion) end
  while #history > 32 do table.remove(history) end
  point('champion', name)
  point('previous', history[1] or '')
  point('history', table.concat(history, ','))
end

if expected ~= '' and tonumber(expected) ~= epoch then return answer('moved', tostring(epoch)) end
if version ~= '' and action ~= 'record' then
  if not redis.call('ZSCORE', KEYS[3], version) then return answer('unknown') end
  if redis.call('SISMEMBER', KEYS[4], version) == 1 then return answer('collected') end
end

local name, before, after = action, champion, champion
if action == 'promote' then
  if champion == version then return answer('same') end
  if pinned ~= '' and force == '' then return answer('pinned', pinned) end
  enthrone(version)
  if pinned ~= '' then point('pinned', version) end
  name, after = 'promoted', version
elseif action == 'rollback' then
  local target = table.remove(history, 1)
  while target and not usable(target) do target = table.remove(history, 1) end
  if not target then return answer('nothing') end
  point('champion', target)
  point('previous', history[1] or '')
  point('history', table.concat(history, ','))
  point('pinned', target)
  name, version, after = 'rolled_back', target, target
elseif action == 'pin' then
  if version == '' then version = champion end
  if version == '' then return answer('nothing') end
  if pinned == version and champion == version then return answer('same') end
  if champion ~= version then enthrone(version) end
  point('pinned', version)
  name, after = 'pinned', version
elseif action == 'unpin' then
  if pinned == '' then return answer('same') end
  point('pinned', '')
  name, version = 'unpinned', pinned
elseif action == 'canary' or action == 'shadow' then
  before, after = state[action] or '', version
  if before == after then return answer('same') end
  point(action, version)
  name = 'assigned'
elseif action == 'restore' then
  name = 'restored'
elseif action == 'record' then
  name = recorded
else
  return redis.error_reply('unknown action ' .. action)
end

if action ~= 'record' then epoch = epoch + 1 end
redis.call('HSET', KEYS[1], 'epoch', tostring(epoch))
local entry = {'action', name, 'actor', actor, 'reason', reason, 'version', version, 'before', before, 'after', after,
  'epoch', tostring(epoch)}
if extra ~= '' then table.insert(entry, 'fields'); table.insert(entry, extra) end
if action ~= 'record' then
  local now = {}
  flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do now[flat[i]] = flat[i + 1] end
  table.insert(entry, 'state'); table.insert(entry, cjson.encode(now))
end
redis.call('XADD', KEYS[2], '*', unpack(entry))
return answer('done')
