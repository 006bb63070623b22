#!lua
-- The one compare-and-set. Everything is checked before the first write: scripts do not roll back.
--
-- KEYS: guard, log, then the streams that are written or copied from.
-- ARGV[1]: msgpack [expected {number, token, position}, number, token, out_id, how many events, outs,
--   set, drop]; out: {key index, id, how many parts, source key index or 0, source id, names, required}
-- ARGV[2 ...]: the events, then the parts of each out: field, value, field, value, ...
-- Answers {"ok"}, {"conflict", what}, {"gone", key, id} or {"refused", why}; only "ok" has written.
local expected, number, token, out_id, event_count, outs, set, drop =
  unpack(cmsgpack.unpack(ARGV[1]))
local guard, log = KEYS[1], KEYS[2]
local MAX_FIELDS = 2000

local function has_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == wanted or found == 'none'
end

local function id_above(id, other)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_n = string.match(other, '^(%d+)-(%d+)$')
  ms, n, other_ms, other_n = tonumber(ms), tonumber(n), tonumber(other_ms), tonumber(other_n)
  return ms > other_ms or (ms == other_ms and n > other_n)
end

if not has_type(guard, 'hash') then return {'refused', guard .. ' is not a hash'} end
for i = 2, #KEYS do
  if not has_type(KEYS[i], 'stream') then return {'refused', KEYS[i] .. ' is not a stream'} end
end

local held = redis.call('HMGET', guard, 'number', 'token', 'out_id')
if (held[1] or '0') ~= string.format('%.0f', expected[1]) or (held[2] or '') ~= expected[2] then
  return {'conflict', 'number ' .. (held[1] or '0')}
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
local position = '0'
if last[1] then position = string.match(last[1][1], '^(%d+)-0$') end
if position ~= string.format('%.0f', expected[3]) then
  return {'conflict', 'position ' .. (position or last[1][1])}
end

local top = held[3] or '0-0'
local seen, bodies, next_part = {}, {}, 2 + event_count
for i, out in ipairs(outs) do
  local key, id, fields = KEYS[out[1]], out[2], {}
  for part = 1, out[3] do fields[part] = ARGV[next_part + part - 1] end
  next_part = next_part + out[3]
  if not id_above(id, top) then return {'refused', id .. ' is not above ' .. top} end
  top = id
  if not seen[key] and #redis.call('XRANGE', key, id, '+', 'COUNT', 1) > 0 then
    return {'refused', key .. ' has entries above ' .. id}
  end
  seen[key] = true
  if out[4] > 0 then
    local source = redis.call('XRANGE', KEYS[out[4]], out[5], out[5])[1]
    if source then
      local place, body = {}, source[2]  -- a name that comes twice counts once, with its last value
      for _, name in ipairs(out[6]) do place[name] = 0 end
      for f = 1, out[3], 2 do if place[fields[f]] then place[fields[f]] = f end end
      for f = 1, #body, 2 do
        local at = place[body[f]]
        if at then
          if at == 0 then at = #fields + 1 end
          place[body[f]] = at
          fields[at], fields[at + 1] = body[f], body[f + 1]
        end
      end
    elseif out[7] then
      return {'gone', KEYS[out[4]], out[5]}
    end
  end
  if #fields > MAX_FIELDS then return {'refused', 'an entry with too many fields'} end
  bodies[i] = fields
end
if #set > MAX_FIELDS or #drop > MAX_FIELDS then return {'refused', 'too many guard fields'} end

for i = 1, event_count do
  redis.call('XADD', log, string.format('%.0f-0', expected[3] + i), 'event', ARGV[1 + i])
end
for i, out in ipairs(outs) do redis.call('XADD', KEYS[out[1]], out[2], unpack(bodies[i])) end
redis.call('HSET', guard, 'number', string.format('%.0f', number), 'token', token, 'out_id', out_id)
if #set > 0 then redis.call('HSET', guard, unpack(set)) end
if #drop > 0 then redis.call('HDEL', guard, unpack(drop)) end
return {'ok'}
