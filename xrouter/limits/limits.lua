-- Admission of one request: all of its claims or none. xrouter/limits/windows.py says what each state means.
--
-- KEYS   the claims' keys, then the changes'
-- ARGV   one text of lines:
--        'number-of-claims lease-length lease', the length in µs
--        for each claim   'kind limit window burst shadow amount', the window in µs, shadow 0 or 1
--        for each change  'kind limit window burst shadow delta mark'
-- kind   f fixed window | s sliding window | t token bucket | c concurrency
--
-- The changes are applied if the claims are refused, or if there are none; the mark 'ago N' is of what was used N µs ago and
-- is not known here, and 'ago N name' of what counts once, however often it is told. Returned are whole numbers with spaces
-- between them: 1 if admitted, 1 if a key held something else and was replaced, then for each claim: fits, remaining, reset
-- µs, retry µs, mark. One text each way is several times cheaper to encode and to parse in Python than lists of numbers.
-- All times are the server's, so clients' clocks do not matter. Every key expires once nothing in it counts.

local SLICES, SLOT_RETRY_US, LONGEST_NAMED_US = 60, 1000000, 3600000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lines = {}
for line in string.gmatch(ARGV[1], '[^\n]+') do lines[#lines + 1] = line end
local count, lease_us, lease = string.match(lines[1], '^(%d+) (%d+) (.*)$')
count, lease_us = tonumber(count), tonumber(lease_us)
local replaced = 0

-- A command on a key that may hold another type of value: that is not ours, so it goes.
local function call(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err, 0) end
    redis.call('DEL', key)
    replaced = 1
    return redis.call(command, key, ...)
  end
  return reply
end

local function whole(number) return string.format('%.0f', number) end
local function expire_at(key, at_us) redis.call('PEXPIREAT', key, whole(math.ceil(at_us / 1000))) end
local function refill_us(claim, amount) return math.floor(amount * claim.window / claim.limit) end

local Fixed, Sliding, Bucket, Slots = {}, {}, {}, {}

function Fixed.load(claim)
  local stored = call('HMGET', claim.key, 's', 'u')
  claim.start, claim.used = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
  if now >= claim.start + claim.window then claim.used = 0 end
end

function Fixed.state(claim, amount)
  local reset = claim.used > 0 and claim.start + claim.window - now or 0
  local fits = claim.used + math.max(amount, 1) <= claim.limit
  local retry = fits and 0 or amount <= claim.limit and reset or -1
  return fits, math.max(0, claim.limit - claim.used), reset, retry, claim.start
end

local function use(claim, amount, at)
  if claim.used == 0 then claim.start = at end
  claim.used = claim.used + amount
  redis.call('HSET', claim.key, 's', whole(claim.start), 'u', whole(claim.used))
  expire_at(claim.key, claim.start + claim.window)
end

function Fixed.take(claim, amount) use(claim, amount, now) end

function Fixed.change(claim, mark, delta)
  Fixed.load(claim)
  if tonumber(mark) == claim.start and now < claim.start + claim.window then
    redis.call('HSET', claim.key, 'u', whole(math.max(0, claim.used + delta)))
  end
end

-- It counts in the window of now, which began with it if nothing else was used.
function Fixed.used_at(claim, amount, at)
  if at + claim.window <= now then return end
  Fixed.load(claim)
  use(claim, amount, at)
end

-- A slice is a field: its index → 'used time-of-the-last-use'.
function Sliding.load(claim)
  local stored = call('HGETALL', claim.key)
  claim.slices, claim.total = {}, 0
  for i = 1, #stored, 2 do
    local used, last = string.match(stored[i + 1], '^(%d+) (%d+)$')
    used, last = tonumber(used), tonumber(last)
    if not last or last + claim.window <= now then
      redis.call('HDEL', claim.key, stored[i])
    else
      claim.slices[#claim.slices + 1] = {index = tonumber(stored[i]), used = used, last = last}
      claim.total = claim.total + used
    end
  end
  table.sort(claim.slices, function(one, other) return one.index < other.index end)
end

function Sliding.state(claim, amount)
  local newest = claim.slices[#claim.slices]
  local fits = claim.total + math.max(amount, 1) <= claim.limit
  local reset, retry = newest and newest.last + claim.window - now or 0, fits and 0 or -1
  local excess = claim.total + math.max(amount, 1) - claim.limit
  for i = 1, fits and 0 or #claim.slices do
    excess = excess - claim.slices[i].used
    if excess <= 0 then retry = claim.slices[i].last + claim.window - now break end
  end
  return fits, math.max(0, claim.limit - claim.total), reset, retry, newest and newest.index or 0
end

local function store_slice(claim, slice)
  redis.call('HSET', claim.key, whole(slice.index), whole(slice.used) .. ' ' .. whole(slice.last))
end

-- After a failover the clock may be behind that of the old master. Then the newest slice is of times to come, and takes this too.
function Sliding.take(claim, amount)
  local index = math.floor(now * SLICES / claim.window)
  local newest = claim.slices[#claim.slices]
  if not newest or newest.index < index then
    newest = {index = index, used = 0, last = now}
    claim.slices[#claim.slices + 1] = newest
  end
  newest.used, newest.last = newest.used + amount, math.max(newest.last, now)
  claim.total = claim.total + amount
  store_slice(claim, newest)
  expire_at(claim.key, newest.last + claim.window)
end

function Sliding.change(claim, mark, delta)
  Sliding.load(claim)
  for i = 1, #claim.slices do
    local slice = claim.slices[i]
    if slice.index == tonumber(mark) then
      slice.used = math.max(0, slice.used + delta)
      if slice.used == 0 then redis.call('HDEL', claim.key, whole(slice.index)) else store_slice(claim, slice) end
    end
  end
end

function Sliding.used_at(claim, amount, at)
  if at + claim.window <= now then return end
  Sliding.load(claim)
  local found = {index = math.floor(at * SLICES / claim.window), used = 0, last = at}
  local newest = at
  for i = 1, #claim.slices do
    local slice = claim.slices[i]
    if slice.index == found.index then found = slice end
    newest = math.max(newest, slice.last)
  end
  found.used, found.last = found.used + amount, math.max(found.last, at)
  store_slice(claim, found)
  expire_at(claim.key, newest + claim.window)
end

function Bucket.load(claim) claim.full = tonumber(call('GET', claim.key)) or 0 end

function Bucket.state(claim, amount)
  local behind = math.max(0, claim.full - now)
  local room = refill_us(claim, claim.burst) - behind
  local need = refill_us(claim, math.max(amount, 1))
  local fits = need <= room
  local retry = fits and 0 or amount <= claim.burst and need - room or -1
  return fits, math.max(0, math.floor(room * claim.limit / claim.window)), behind, retry, 0
end

local function store_bucket(claim)
  if claim.full > now then
    redis.call('SET', claim.key, whole(claim.full), 'PX', whole(math.ceil((claim.full - now) / 1000)))
  else
    redis.call('DEL', claim.key)
  end
end

function Bucket.take(claim, amount)
  claim.full = math.max(claim.full, now) + refill_us(claim, amount)
  store_bucket(claim)
end

-- As if it were of now: what is told of a bucket is what has not refilled yet.
function Bucket.used_at(claim, amount)
  Bucket.load(claim)
  Bucket.take(claim, amount)
end

function Bucket.change(claim, _, delta)
  Bucket.load(claim)
  if delta >= 0 then Bucket.take(claim, delta) return end
  claim.full = claim.full - refill_us(claim, -delta)
  store_bucket(claim)
end

-- Leases by the time of their end: what a dead process held is free again by then.
function Slots.load(claim)
  call('ZREMRANGEBYSCORE', claim.key, '-inf', whole(now))
  claim.used = redis.call('ZCARD', claim.key)
end

function Slots.state(claim, amount)
  local fits = claim.used + math.max(amount, 1) <= claim.limit
  return fits, math.max(0, claim.limit - claim.used), 0, fits and 0 or SLOT_RETRY_US, 0
end

local function hold(claim, id)
  redis.call('ZADD', claim.key, whole(now + lease_us), id)
  expire_at(claim.key, now + lease_us)
end

function Slots.take(claim)
  hold(claim, lease)
  claim.used = claim.used + 1
end

function Slots.change(claim, mark, delta)
  call('ZREMRANGEBYSCORE', claim.key, '-inf', whole(now))
  if delta < 0 then redis.call('ZREM', claim.key, mark) else hold(claim, mark) end
end

-- Whether it is told for the first time. Its name is known as long as an answer that was lost is likely to be asked for again.
local function is_new(change, name)
  if name == '' then return true end
  local known_ms = whole(math.min(change.window, LONGEST_NAMED_US) / 1000)
  return redis.call('SET', change.key .. ':' .. name, '', 'NX', 'PX', known_ms) and true
end

local TYPES = {f = Fixed, s = Sliding, t = Bucket, c = Slots}

local function parse(key, text)
  local kind, limit, window, burst, shadow, amount, mark =
    string.match(text, '^(%a) (%d+) (%d+) (%d+) (%d) (%-?%d+) ?(.*)$')
  return {
    key = key, type = TYPES[kind], limit = tonumber(limit), window = tonumber(window), burst = tonumber(burst),
    shadow = shadow == '1', amount = tonumber(amount), mark = mark,
  }
end

local claims, states, admitted = {}, {}, true

for i = 1, count do
  local claim = parse(KEYS[i], lines[i + 1])
  claim.type.load(claim)
  local fits, remaining, reset, retry, mark = claim.type.state(claim, claim.amount)
  claims[i], states[i] = claim, {fits and 1 or 0, remaining, reset, retry, mark}
  if not fits and not claim.shadow then admitted = false end
end

if admitted then
  for i = 1, count do
    local claim = claims[i]
    if states[i][1] == 1 and claim.amount > 0 then
      claim.type.take(claim, claim.amount)
      local _, remaining, reset, _, mark = claim.type.state(claim, 0)
      states[i] = {1, remaining, reset, 0, mark}
    end
  end
end

if not admitted or count == 0 then
  for i = count + 1, #KEYS do
    local change = parse(KEYS[i], lines[i + 1])
    local age, name = string.match(change.mark, '^ago (%d+) ?(.*)$')
    if age then
      if is_new(change, name) then change.type.used_at(change, change.amount, now - tonumber(age)) end
    else
      change.type.change(change, change.mark, change.amount)
    end
  end
end

local reply = {admitted and 1 or 0, replaced}
for i = 1, count do
  for j = 1, 5 do reply[#reply + 1] = whole(states[i][j]) end
end
return table.concat(reply, ' ')
