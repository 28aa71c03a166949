-- Keeps the highest position that a key has written.
-- KEYS[1]  the position
-- ARGV     1 the new one as text of a fixed length, 2 milliseconds that it lives
local kept = redis.call('GET', KEYS[1])
if kept and kept > ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
