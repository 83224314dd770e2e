-- Make a version visible, once: manifest, index and log entry appear together or not at all.
-- KEYS: manifest, versions, log, aliases.  ARGV: manifest bytes, version, number, actor, reason, has history ('1' or '').
-- Answers 'published', 'same' (it is there already, equal) or 'other' (another manifest has this name), or
-- 'lost': the loop has a history that this Redis does not know; nothing was written.
if ARGV[6] == '1' and redis.call('HEXISTS', KEYS[4], 'epoch') == 0 then return 'lost' end
local stored = redis.call('GET', KEYS[1])
if stored then
  if stored == ARGV[1] then return 'same' end
  return 'other'
end
redis.call('HSETNX', KEYS[4], 'epoch', '0')
local epoch = redis.call('HGET', KEYS[4], 'epoch')
local champion = redis.call('HGET', KEYS[4], 'champion') or ''
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
redis.call('XADD', KEYS[3], '*', 'action', 'published', 'actor', ARGV[4], 'reason', ARGV[5], 'version', ARGV[2],
  'before', champion, 'after', champion, 'epoch', epoch)
return 'published'
