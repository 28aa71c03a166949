-- Leases of which only a limited number may exist at once, by this server's time. A lease that is not renewed expires.
-- KEYS[1]  sorted set of leases by the time they end
-- ARGV     1 what: take | renew | drop, 2 seconds that a lease lasts, 3 their maximum number (take only), 4 … leases
-- Returns  1, or 0 if there is no room
-- If the server has lost a lease with its memory, renewing it restores it.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local what, seconds = ARGV[1], tonumber(ARGV[2])
if what == 'drop' then
  for i = 4, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
  return 1
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if what == 'take' and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], now + seconds, ARGV[i]) end
redis.call('EXPIRE', KEYS[1], seconds * 2)
return 1
