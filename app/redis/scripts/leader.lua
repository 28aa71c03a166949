-- The leader, which writes a stream for all: the first that asks, for as long as it renews its lease.
-- KEYS[1]  hash of owner and position
-- ARGV     1 the owner that asks, 2 milliseconds that a lease lasts, 3 how far that owner has written
-- Returns  the owner of the lease and how far it has written
local held = redis.call('HMGET', KEYS[1], 'owner', 'position')
if held[1] and held[1] ~= ARGV[1] then return held end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'position', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {ARGV[1], ARGV[3]}
