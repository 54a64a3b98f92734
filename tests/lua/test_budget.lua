-- tl.budget and tl.rounding: what a budget buys, and what a few bytes hold.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"

local function says(b) return ("u=%d groups=%d params=%d bytes=%d unused=%d"):format(b.u, b.groups, b.params, b.bytes, b.unused) end

check.test("a budget goes to u first, and to tying below one number a module", function()
  check.equal(says(tl.budget { modules = 42, params = 13 }), "u=1 groups=13 params=13 bytes=52 unused=0")
  check.equal(says(tl.budget { modules = 42, params = 42 }), "u=1 groups=42 params=42 bytes=168 unused=0")
  check.equal(says(tl.budget { modules = 42, params = 100 }), "u=2 groups=42 params=84 bytes=336 unused=16")
  check.equal(says(tl.budget { modules = 42, params = 1000 }), "u=4 groups=42 params=168 bytes=672 unused=832")  -- r^2 is all there is
  check.equal(says(tl.budget { modules = 42, params = 1000, rank = 4 }), "u=16 groups=42 params=672 bytes=2688 unused=328")
  check.equal(says(tl.budget { modules = 196, bytes = 27, dtype = "bf16" }), "u=1 groups=13 params=13 bytes=26 unused=0")
  check.raises("one of them", tl.budget, { modules = 4 })
  check.raises("bytes is 1; it must pay for at least one number of 2 bytes", tl.budget, { modules = 4, bytes = 1, dtype = "bf16" })
end)

check.test("the adapter of a budget has that many numbers, its groups differ by one module at most", function()
  local model = tl.model.load "tiny"
  for _, n in ipairs { 1, 13, 41, 100 } do
    local b = tl.budget { model = model, params = n }
    check.equal(tl.adapter.tinylora(model, b).n_parameters, b.params)
    local groups, count = tl.tie.assign(b.tie, model:modules()), {}
    for _, g in ipairs(groups) do count[g] = (count[g] or 0) + 1 end
    local low, high = math.huge, 0
    for _, c in pairs(count) do low, high = math.min(low, c), math.max(high, c) end
    check.equal(high - low <= 1, true, "group sizes of " .. n)
  end
end)

-- the adapter's own storage, which is the C library's rounding, is the reference of nearest rounding
check.test("nearest rounding is the library's, for bf16 and fp16", function()
  local model, x = tl.model.load "tiny", {}
  local philox = require "tl.philox"
  for i = 1, 168 do x[i] = (philox.uniform(1, 2, i) - 0.5) * 10 ^ (i % 9 - 7) end
  x[1], x[2], x[3], x[4] = 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, 1 + 2 ^ -11, 0
  for _, dtype in ipairs { "bf16", "f16" } do
    local a = tl.adapter.tinylora(model, { rank = 2, u = 4, tie = tl.tie.none, dtype = dtype })
    a:set(x)
    local path = os.tmpname() .. ".tla"
    a:save(path)
    local stored = tl.adapter.load(model, path):parameters()
    local rounded = tl.rounding.codec(dtype)(x)
    for i = 1, 168 do check.near(rounded[i], stored[i], 0, dtype .. " of " .. x[i] .. ": ") end
  end
end)

check.test("int8: at most half a step away, the largest kept", function()
  local x = { 0.5, -1.27, 0.013, 0 }
  local y = tl.rounding.codec("int8")(x)
  for i = 1, 4 do check.near(y[i], x[i], 0.00501) end
  check.near(y[2], -1.27, 1e-6)
  check.equal(tl.rounding.codec("int8"){ 0, 0 }, { 0, 0 })
  check.equal({ tl.rounding.bytes("int8", 13), tl.rounding.bytes("bf16", 13), tl.rounding.bytes("f32", 13) }, { 17, 26, 52 })
end)

-- the mean over n draws lies within 4 standard errors: sd of one draw <= step / 2
check.test("stochastic rounding is right on average, and nearest is not", function()
  for _, case in ipairs { { "bf16", 1.001, 2 ^ -7 }, { "f16", 1.0001, 2 ^ -10 }, { "int8", 0.123, 1 / 127 } } do
    local round, sum = tl.rounding.codec(case[1], "stochastic", 5), 0
    for _ = 1, 4000 do sum = sum + round { case[2], 1 }[1] end
    check.near(sum / 4000, case[2], 4 * case[3] / 2 / math.sqrt(4000), case[1])
  end
  check.equal(tl.rounding.codec("bf16"){ 1.001 }[1], 1)
end)

check.done()
