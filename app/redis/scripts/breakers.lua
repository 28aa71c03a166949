-- The circuits that are or were open, by this server's time. A circuit without an entry is closed.
-- KEYS[1]  hash: target -> JSON of status, version, opened, probe_at, lease_until (milliseconds), owner
-- ARGV     1 what: read | open | probe | close | release | reset, 2 target, 3 owner, 4 milliseconds (open: to the next probe;
--          probe: of the lease)
-- Returns  now in milliseconds, then for read: target, JSON, target, JSON …, else: 1 or 0 (done or not), JSON
-- Each change is a compare-and-set on the status and, for a probe's outcome, on the owner of its lease. Versions only grow, also
-- past a loss of this hash, because they are at least the time.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local what, target, owner, length = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if what == 'read' then
  local found = redis.call('HGETALL', KEYS[1])
  table.insert(found, 1, now)
  return found
end

local text = redis.call('HGET', KEYS[1], target)
local circuit = text and cjson.decode(text) or {status = 'CLOSED', version = 0, opened = 0, probe_at = 0, lease_until = 0, owner = ''}
local mine = circuit.status == 'HALF_OPEN' and circuit.owner == owner
local done = false
if what == 'open' and (circuit.status == 'CLOSED' or mine) then
  done = true
  circuit.status, circuit.probe_at, circuit.opened = 'OPEN', now + length, circuit.opened + 1
elseif what == 'probe' then
  done = (circuit.status == 'OPEN' and now >= circuit.probe_at)
    or (circuit.status == 'HALF_OPEN' and now >= circuit.lease_until)
    or circuit.version == 0
  if done then circuit.status, circuit.lease_until, circuit.owner = 'HALF_OPEN', now + length, owner end
elseif (what == 'close' and mine) or what == 'reset' then
  done = true
  circuit.status, circuit.owner = 'CLOSED', ''
elseif what == 'release' and mine then
  done = true
  circuit.status, circuit.probe_at, circuit.owner = 'OPEN', now, ''
end
if done then
  circuit.version = math.max(circuit.version + 1, now)
  text = cjson.encode(circuit)
  redis.call('HSET', KEYS[1], target, text)
  redis.call('EXPIRE', KEYS[1], 86400)
end
return {now, done and 1 or 0, text or cjson.encode(circuit)}
