-- Takes a lease from one owner, and from no other.
-- KEYS[1]  the lease
-- ARGV     1 the owner that it is taken from
-- Returns  1 if it was taken; 0 if another process holds it now, or none
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
