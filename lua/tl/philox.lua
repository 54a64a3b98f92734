-- philox.lua: the counter-based random numbers of runtime/base/random.c in plain Lua, for generators that must give the
-- same data in any Lua state: worker threads, `luajit` without the runtime. Philox4x32-10 (Salmon, Moraes, Dror, Shaw:
-- "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A draw is a pure function of (seed, stream, index), and
-- philox.uniform(seed, stream, index) equals tl_uniform of the same arguments (tests/lua/test_wordproblems.lua).
-- Every number is a double holding an integer below 2^53, which makes the 32 x 32 bit products exact in two halves.
local bit = require "bit"
local bxor, floor = bit.bxor, math.floor
local TWO16, TWO32 = 65536, 4294967296

local philox = {}

-- high and low 32 bits of a * b
local function multiply(a, b)
  local low_part = (a % TWO16) * b
  local middle = floor(a / TWO16) * b + floor(low_part / TWO16)
  return floor(middle / TWO16), (middle % TWO16) * TWO16 + low_part % TWO16
end

---Four 32-bit words of counter (c0..c3) under key (k0, k1).
function philox.block(c0, c1, c2, c3, k0, k1)
  for _ = 1, 10 do
    local h0, l0 = multiply(0xD2511F53, c0)
    local h1, l1 = multiply(0xCD9E8D57, c2)
    c0, c1, c2, c3 = bxor(h1, c1, k0) % TWO32, l1, bxor(h0, c3, k1) % TWO32, l0
    k0, k1 = (k0 + 0x9E3779B9) % TWO32, (k1 + 0xBB67AE85) % TWO32
  end
  return c0, c1, c2, c3
end

---A generator over the draws index = 0, 1, 2, ... of (seed, stream); both below 2^53.
---@param seed integer
---@param stream integer
---@return table  methods: uniform() in [0, 1); integer(lo, hi), both ends included; pick(list)
function philox.stream(seed, stream)
  local self = { index = 0 }
  local k0, k1 = seed % TWO32, floor(seed / TWO32)
  local s0, s1 = stream % TWO32, floor(stream / TWO32)
  local w0, w1, w2, w3

  function self.uniform()
    local word = self.index % 4
    if word == 0 then w0, w1, w2, w3 = philox.block(floor(self.index / 4), 0, s0, s1, k0, k1) end
    self.index = self.index + 1
    local w = word == 0 and w0 or word == 1 and w1 or word == 2 and w2 or w3
    return floor(w / 256) / 16777216
  end
  function self.integer(lo, hi) return lo + floor(self.uniform() * (hi - lo + 1)) end
  function self.pick(list) return list[1 + floor(self.uniform() * #list)] end
  return self
end

---The draw number `index` of (seed, stream): 24 bits in [0, 1).
function philox.uniform(seed, stream, index)
  local s = philox.stream(seed, stream)
  s.index = index - index % 4
  local u
  for _ = 0, index % 4 do u = s.uniform() end
  return u
end

---Normal number `index` (0 based) of (seed, stream), mean 0 and variance 1: Box and Muller, of the draws 2 index and 2 index + 1.
function philox.normal(seed, stream, index)
  local u1, u2 = philox.uniform(seed, stream, 2 * index), philox.uniform(seed, stream, 2 * index + 1)
  return math.sqrt(-2 * math.log(1 - u1)) * math.cos(2 * math.pi * u2)
end

return philox
