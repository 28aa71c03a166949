-- A token bucket that holds one minute's worth and starts full, by this server's time.
-- KEYS[1]  hash: tokens, at (seconds)
-- ARGV     1 tokens a minute
-- Returns  seconds until there is a token, as text; 0 if one was taken
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit = tonumber(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local elapsed = math.max(0, now - (tonumber(held[2]) or now))
local tokens = math.min(limit, (tonumber(held[1]) or limit) + elapsed * limit / 60)
local wait = 0
if tokens >= 1 - 1e-9 then tokens = tokens - 1 else wait = (1 - tokens) * 60 / limit end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 120)
return string.format('%.6f', wait)
