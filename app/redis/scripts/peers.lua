-- Counts the processes that are alive.
-- KEYS[1]  sorted set of processes by the time they were last heard of
-- ARGV     1 process, 2 seconds after which a silent one is gone (0: this one leaves)
-- Returns  how many are alive
local now = tonumber(redis.call('TIME')[1])
local lifetime = tonumber(ARGV[2])
if lifetime == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - lifetime)
  redis.call('EXPIRE', KEYS[1], lifetime * 4)
end
return redis.call('ZCARD', KEYS[1])
