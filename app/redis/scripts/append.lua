-- Appends numbered entries to a stream; a number that is there already is left as it is.
-- ARGV: lifetime in seconds, most entries kept, then number and entry by turns.
local last = 0
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if newest[1] then
  last = tonumber(string.match(newest[1][1], '^(%d+)'))
end
local appended = 0
for i = 3, #ARGV, 2 do
  if tonumber(ARGV[i]) > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[i] .. '-0', 'e', ARGV[i + 1])
    appended = appended + 1
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return appended
