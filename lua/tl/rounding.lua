--- rounding.lua: numbers as few bytes hold them: bf16, fp16, and int8 with one fp32 scale; to the nearest, or stochastically.
---
--- An adapter's dtype ("bf16") rounds what the forward pass uses, and the optimiser keeps an fp32 copy beside it. Here the numbers
--- themselves are rounded, so that nothing but the bytes is kept from step to step:
---
---   local round = tl.rounding.codec("bf16", "stochastic", seed)
---   trainer:step(batch); adapter:set(round(adapter:parameters()))
---
--- Nearest: to the neighbour that is nearer, ties to the even one; an update of less than half a step is lost. Stochastic: to the upper neighbour
--- with probability (x - low) / (high - low), so that the mean over draws is x (Gupta et al. 2015, "Deep learning with limited
--- numerical precision"). Draws are counter-based: of (seed, call, index).
---
---   bf16   8 bits of exponent, 7 of mantissa      2 bytes a number
---   f16    5 and 10; beyond 65504 it saturates    2 bytes
---   int8   q scale, q = -127..127, scale = max |x| / 127 as fp32, made anew at each call      1 byte, and 4 in all
---   f32    as they are                            4 bytes
local ffi = require "ffi"
local philox = require "tl.philox"

local rounding = {}

-- the spacing of representable numbers around |x|: 2^(e - mantissa), and not below that of the smallest exponent
local function spacing(x, mantissa, smallest)
  local _, e = math.frexp(math.abs(x))  -- |x| = m 2^e, m in [0.5, 1)
  return 2 ^ (math.max(e - 1, smallest) - mantissa)
end

local function to_even(x)
  local low = math.floor(x)
  if x - low ~= 0.5 then return math.floor(x + 0.5) end
  return low % 2 == 0 and low or low + 1
end

local FORMATS = { bf16 = { 7, -126, 3.3895313892515355e38 }, f16 = { 10, -14, 65504 } }

local function whole(x, draw)
  if not draw then return to_even(x) end
  local low = math.floor(x)
  return draw < x - low and low + 1 or low
end

local function float(x, format, draw)
  if x == 0 or x ~= x then return x end
  local step = spacing(x, format[1], format[2])
  return math.max(-format[3], math.min(format[3], whole(x / step, draw) * step))
end

-- max |x| / 127, as fp32
local function int8_scale(values)
  local largest = 0
  for _, v in ipairs(values) do largest = math.max(largest, math.abs(v)) end
  return ffi.new("float[1]", largest / 127)[0]
end

--- How many bytes n numbers take.
function rounding.bytes(name, n)
  if name ~= "f32" and name ~= "int8" and not FORMATS[name] then error("unknown format '" .. tostring(name) .. "': f32, bf16, f16 or int8", 2) end
  if name == "int8" then return n + 4 end
  return (name == "f32" and 4 or 2) * n
end

--- A function from a list of numbers to the list that its bytes hold. name: "f32", "bf16", "f16", "int8"; how: "nearest" or "stochastic".
---@param name string
---@param how string?
---@param seed integer?
---@return function
function rounding.codec(name, how, seed)
  if name ~= "f32" and name ~= "int8" and not FORMATS[name] then error("unknown format '" .. tostring(name) .. "': f32, bf16, f16 or int8", 2) end
  if how and how ~= "nearest" and how ~= "stochastic" then error("rounding is 'nearest' or 'stochastic'; got " .. tostring(how), 2) end
  if seed ~= nil and (type(seed) ~= "number" or seed < 0 or seed % 1 ~= 0) then error("rounding.codec: seed is a whole number from 0; got " .. tostring(seed), 2) end
  local call = 0
  return function(values)
    call = call + 1
    local out, scale = {}, name == "int8" and int8_scale(values)
    for i, v in ipairs(values) do
      local draw = how == "stochastic" and philox.uniform(seed or 0, call, i) or nil
      if name == "f32" then out[i] = v
      elseif name == "int8" then out[i] = scale > 0 and math.max(-127, math.min(127, whole(v / scale, draw))) * scale or 0
      else out[i] = float(v, FORMATS[name], draw) end
    end
    return out
  end
end

return rounding
