-- Note that versions lose their weights, except those that an alias names at this moment.
-- KEYS: aliases, collected.  ARGV: versions.  Answers those that were noted.
local named = {}
for _, name in ipairs({'champion', 'previous', 'canary', 'shadow', 'pinned'}) do
  local version = redis.call('HGET', KEYS[1], name)
  if version then named[version] = true end
end
local noted = {}
for _, version in ipairs(ARGV) do
  if not named[version] then
    redis.call('SADD', KEYS[2], version)
    table.insert(noted, version)
  end
end
return noted
