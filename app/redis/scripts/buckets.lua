-- Token buckets for requests and tokens that all processes draw on, by this server's time.
-- KEYS[1]  hash: requests, tokens (what is available), at (seconds)
-- ARGV     1 requests a minute, 2 tokens a minute (-1: no limit)
--          3 requests, 4 tokens given back (negative: used beyond what was taken)
--          5 requests, 6 tokens needed, 7 requests, 8 tokens that are also wanted, if there are enough
--          9 patience: seconds that the caller waits at most
-- Returns  requests and tokens taken, seconds to wait before they may be used, requests and tokens available
-- A needed amount that is not available yet is taken in advance if the caller can wait for it. So callers are served in the
-- order of their arrival, and small calls cannot starve a large one. Wanted amounts are only taken from a bucket's upper half.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local held = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local elapsed = math.max(0, now - (tonumber(held[3]) or now))

local limit, available, needed, wished = {}, {}, {}, {}
local wait = 0
for i = 1, 2 do
  limit[i] = tonumber(ARGV[i])
  needed[i] = tonumber(ARGV[4 + i])
  wished[i] = tonumber(ARGV[6 + i])
  if limit[i] >= 0 then
    local amount = math.min(limit[i], (tonumber(held[i]) or limit[i]) + elapsed * limit[i] / 60)
    amount = math.max(-limit[i], math.min(limit[i], amount + tonumber(ARGV[2 + i])))
    available[i] = amount
    needed[i] = math.min(needed[i], limit[i])
    wait = math.max(wait, (needed[i] - amount) / (limit[i] / 60))
  end
end

local taken = {0, 0}
for i = 1, 2 do
  if limit[i] < 0 then
    taken[i] = needed[i] + wished[i]
  elseif wait <= tonumber(ARGV[9]) then
    taken[i] = needed[i]
    if wait == 0 then
      taken[i] = taken[i] + math.max(0, math.min(wished[i], available[i] - needed[i] - limit[i] / 2))
    end
    available[i] = available[i] - taken[i]
  end
end

redis.call('HSET', KEYS[1], 'requests', available[1] or 0, 'tokens', available[2] or 0, 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 180)
local function text(number) return string.format('%.6f', number) end
return {text(taken[1]), text(taken[2]), text(wait), text(available[1] or 0), text(available[2] or 0)}
