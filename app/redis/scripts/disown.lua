-- Takes a lease from the one that has it, and from nobody else.
-- KEYS[1]  the lease
-- ARGV     1 the owner that it is taken from
-- Returns  1 where it was taken, 0 where another has it by now, or nobody
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
