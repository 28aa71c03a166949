-- Which call makes an answer that several calls wait for: the first that asks, for as long as it renews.
-- KEYS[1]  the owner
-- ARGV     1 the call that asks, 2 milliseconds that it may take until it asks again; 0 gives it up
-- Returns  1 if that call is the owner now
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
