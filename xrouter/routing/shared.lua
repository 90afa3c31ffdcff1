-- What the processes of one gateway tell each other of the places that they leave alone.
--
-- KEYS[1]: a hash. A field is a place, [upstream, model] as JSON; its value is the last change of it:
--   [version, by, until_ms, reason, kind, open_ms]; until_ms is 0 once the place is well again.
--   The field "prober" is [until_ms, by]: the process that makes the active probes until then.
-- ARGV[1]: {"by": who asks, "changes": [[place, left_ms, reason, kind, open_ms], …], "lease_ms": 0, or as long as it would probe}
-- Returns {"prober": whether it is the one, "places": the hash}, with left_ms in the place of until_ms.
--
-- The server's clock is the only one, so that those of the processes need not agree. A version is its time in steps of 100 µs
-- (cjson writes 14 digits of a number), and always above the one before.

local KEPT_MS = 3600000 -- a change that is older tells nobody anything

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_version = clock[1] * 10000 + math.floor(clock[2] / 100)
local asked = cjson.decode(ARGV[1])

for _, change in ipairs(asked.changes) do
  local place, left_ms = change[1], change[2]
  local until_ms = left_ms > 0 and now_ms + left_ms or 0
  local stored = redis.call('HGET', KEYS[1], place)
  local last = stored and cjson.decode(stored) or {0, '', 0}
  if until_ms == 0 or until_ms >= last[3] then -- an ejection shortens no longer one
    local version = math.max(now_version, last[1] + 1)
    redis.call('HSET', KEYS[1], place, cjson.encode({version, asked.by, until_ms, change[3], change[4], change[5]}))
  end
end

local prober = false
if asked.lease_ms > 0 then
  local held = redis.call('HGET', KEYS[1], 'prober')
  local holder = held and cjson.decode(held) or {0, ''}
  if holder[1] <= now_ms or holder[2] == asked.by then
    redis.call('HSET', KEYS[1], 'prober', cjson.encode({now_ms + asked.lease_ms, asked.by}))
    prober = true
  end
end

local places = {}
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do
  local place = all[index]
  if place ~= 'prober' then
    local entry = cjson.decode(all[index + 1])
    if entry[1] < now_version - KEPT_MS * 10 then
      redis.call('HDEL', KEYS[1], place)
    else
      entry[3] = entry[3] > 0 and math.max(entry[3] - now_ms, 1) or 0
      places[#places + 1] = {place, unpack(entry)}
    end
  end
end
return cjson.encode({prober = prober, places = #places > 0 and places or cjson.null})
