-- Tensors: views share storage, arithmetic repeats dims of 1 and rounds once, matmul of any view, errors at the caller's line.
-- Catches: a transposed view multiplied as if it were not, a slice that copies, an overlapping copy that reads what it wrote.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local test, equal, near, raises = check.test, check.equal, check.near, check.raises
local T = require "tl.tensor"

test("create, get, set, totable", function()
  local t = T.from { { 1, 2, 3 }, { 4, 5, 6 } }
  equal(t.shape, { 2, 3 })
  equal({ t:get(2, 3), t[1][2], t:count() }, { 6, 2, 6 })
  t:set(1, 1, 9)
  equal(t:totable(), { { 9, 2, 3 }, { 4, 5, 6 } })
  equal(T.full(2, 2, { dtype = "i32" }):totable(), { 2, 2 })
end)

test("views share their storage and outlive their parent", function()
  local t = T.zeros(3, 4)
  local s = t:slice(2, 2, 3):transpose()
  s:set(1, 3, 7)
  equal(t:get(3, 2), 7)
  t:free()
  collectgarbage()
  equal(s:totable(), { { 0, 0, 7 }, { 0, 0, 0 } })
  raises("not contiguous", s.reshape, s, 6)
  equal(s:copy():reshape(6):get(3), 7)
end)

test("arithmetic repeats dims of 1", function()
  local a = T.from { { 1, 2 }, { 3, 4 } }
  equal((a + T.from { 10, 20 }):totable(), { { 11, 22 }, { 13, 24 } })
  equal((a * T.from { { 2 }, { 3 } }):totable(), { { 2, 4 }, { 9, 12 } })
  equal(((1 - a) / 2):totable(), { { 0, -0.5 }, { -1, -1.5 } })
  raises("do not fit", function() return a + T.zeros(3) end)
end)

test("reductions", function()
  local a = T.from { { 1, -2 }, { 3, 4 } }
  equal({ a:sum(), a:mean(), a:max(), a:min() }, { 6, 1.5, 4, -2 })
  near(a:norm(), math.sqrt(30), 1e-12)
  equal(a:sum(1):totable(), { { 4, 2 } })
  equal(a:max(2):totable(), { { 1 }, { 4 } })
end)

test("matmul of plain, transposed and sliced matrices", function()
  local function slow(a, b)
    local out = T.zeros(a.shape[1], b.shape[2])
    for i = 1, a.shape[1] do
      for j = 1, b.shape[2] do
        local s = 0
        for k = 1, a.shape[2] do s = s + a:get(i, k) * b:get(k, j) end
        out:set(i, j, s)
      end
    end
    return out
  end
  local a, b = T.normal(5, 7, { seed = 1 }), T.normal(9, 7, { seed = 2 })
  local pairs_of = { { a, b:T() }, { a:T(), a }, { a:slice(1, 2, 4), b:T():slice(2, 3, 5) }, { a:slice(2, 2, 4), b:slice(1, 1, 3) }, { a:copy "bf16", b:T() } }
  -- fp32 sums of at most 9 terms of size 1: 1e-5 is some 10 rounding errors
  for i, p in ipairs(pairs_of) do near((p[1]:matmul(p[2]) - slow(p[1], p[2])):norm(), 0, 1e-5, "case " .. i) end
  raises("do not fit", a.matmul, a, b)
end)

test("dtypes round to nearest even", function()
  equal(T.from({ 1 + 2 ^ -8, 1 + 3 * 2 ^ -8 }, { dtype = "bf16" }):totable(), { 1, 1 + 2 ^ -6 })
  equal(T.from({ 1 + 2 ^ -11, 65504 }, { dtype = "f16" }):totable(), { 1, 65504 })
  equal(T.from({ 2.5, -3.5, 1e12 }, { dtype = "i32" }):totable(), { 2, -4, 2147483647 })
end)

test("an overlapping copy reads before it writes", function()
  local t = T.from { 1, 2, 3, 4 }
  t:slice(1, 2, 4):assign(t:slice(1, 1, 3))
  equal(t:totable(), { 1, 1, 2, 3 })
end)

test("random numbers are a function of the seed", function()
  local a, b = T.normal(1000, { seed = 5 }), T.normal(1000, { seed = 5 })
  equal((a - b):norm(), 0)
  -- mean and variance of 1000 normals: 5 standard errors are 0.16 and 0.22
  near(a:mean(), 0, 0.16)
  near((a * a):mean(), 1, 0.23)
  local u = T.uniform(1000, { seed = 6, low = 2, high = 4 })
  equal(u:min() >= 2 and u:max() < 4, true)
end)

test("SVD gives the matrix back", function()
  local w = T.normal(30, 20, { seed = 1 })
  local U, S, V = w:svd()
  -- fp32 factors of a (30, 20) matrix of norm 25
  near((U * S):matmul(V:T()):sub(w):norm(), 0, 1e-4)
end)

test("printing", function()
  equal(tostring(T.from { { 1, 2.5 }, { -3, 4 } }), "      1  2.5000\n     -3       4\ntensor (2, 2) f32 on cpu")
  equal(select(2, tostring(T.zeros(100, 100)):gsub("\n", "\n")) < 12, true, "a large one is shortened")
end)

test("mistakes", function()
  raises("test_tensor.lua:%d+: dim 1 of a tensor is 0", function() local t = T.zeros(0) return t end)
  raises("1 to 4 dims", T.zeros, 1, 1, 1, 1, 1)
  raises("unknown dtype 'f64'", T.zeros, 2, { dtype = "f64" })
  raises("too many elements", T.zeros, 2 ^ 31, 2 ^ 31)
  raises("device", T.zeros, 2, { device = "cuda" })
  raises("equal length", T.from, { { 1, 2 }, { 3 } })
  local t = T.zeros(2, 2)
  raises("index 3 of dim 1", t.get, t, 3, 1)
  raises("2 dims", t.get, t, 1)
end)

check.done()
