--- tensorboard.lua: writes TensorBoard event files with scalars.
---
--- The file is a TFRecord: for each record its length (u64), the masked CRC of the length's bytes (u32), the data, the data's masked
--- CRC; little-endian. CRC-32C (polynomial 0x82f63b78, reflected), masked as ((c >> 15) | (c << 17)) + 0xa282ead8. The data is a
--- protocol buffer tensorflow.Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; } with
--- Summary { repeated Value value = 1; }, Value { string tag = 1; float simple_value = 2; }.
local bit = require "bit"
local ffi = require "ffi"
local band, bxor, rshift, lshift, bor = bit.band, bit.bxor, bit.rshift, bit.lshift, bit.bor

local tensorboard = {}

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = band(c, 1) == 1 and bxor(rshift(c, 1), 0x82f63b78) or rshift(c, 1) end
  crc_table[i] = c
end

--- CRC-32C of a string, as a number from 0 to 2^32 - 1.
function tensorboard.crc32c(s)
  local c = -1
  for i = 1, #s do c = bxor(crc_table[band(bxor(c, s:byte(i)), 255)], rshift(c, 8)) end
  return bit.bnot(c) % 2 ^ 32
end

local function u32(x) return string.char(x % 256, math.floor(x / 2 ^ 8) % 256, math.floor(x / 2 ^ 16) % 256, math.floor(x / 2 ^ 24) % 256) end

local function masked(s)
  local c = bit.tobit(tensorboard.crc32c(s))
  return u32((bor(rshift(c, 15), lshift(c, 17)) % 2 ^ 32 + 0xa282ead8) % 2 ^ 32)
end

local function record(payload)
  local length = u32(#payload) .. u32(0)
  return length .. masked(length) .. payload .. masked(payload)
end

-- protocol buffer fields; x86 and ARM are little-endian, as the format is
local function varint(n)
  local out = {}
  repeat
    local low = n % 128
    n = math.floor(n / 128)
    out[#out + 1] = string.char(n > 0 and low + 128 or low)
  until n == 0
  return table.concat(out)
end
local function bytes_field(number, s) return varint(number * 8 + 2) .. varint(#s) .. s end
local function double_field(number, x) return varint(number * 8 + 1) .. ffi.string(ffi.new("double[1]", x), 8) end
local function float_field(number, x) return varint(number * 8 + 5) .. ffi.string(ffi.new("float[1]", x), 4) end
local function int_field(number, n) return varint(number * 8) .. varint(n) end

--- The record that opens a file.
function tensorboard.header(wall_time) return record(double_field(1, wall_time) .. bytes_field(3, "brain.Event:2")) end

--- The record of one step's scalars.
---@param values table tag -> number; written in the order of their tags
function tensorboard.scalars(wall_time, step, values)
  local tags, summary = {}, {}
  for tag, v in pairs(values) do
    if type(v) == "number" then tags[#tags + 1] = tag end
  end
  table.sort(tags)
  for i, tag in ipairs(tags) do summary[i] = bytes_field(1, bytes_field(1, tag) .. float_field(2, values[tag])) end
  return record(double_field(1, wall_time) .. int_field(2, step) .. bytes_field(5, table.concat(summary)))
end

--- The name TensorBoard looks for.
function tensorboard.filename(unix_time, host, pid) return ("events.out.tfevents.%d.%s.%d.0"):format(unix_time, host, pid) end

return tensorboard
