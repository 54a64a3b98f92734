-- test_f16.lua: a model that computes in fp16: its logprobs are nearer to fp32's than bf16's are, its gradients too, however small the loss's
-- own are, of all kinds of adapters; what is beyond fp16 is noticed. Would catch: gradients that underflow, a loss scale that stays in a
-- gradient (of LoRA's B, of a bias, of norms or embeddings), a second backward pass on top of a first that is scaled twice.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local ffi = require "ffi"
local pass = require "tl.pass"
local tl = require "tl"

local models = {}
for _, dtype in ipairs { "f32", "bf16", "f16" } do models[dtype] = tl.model.load("tiny-xs", { dtype = dtype }) end

local function ids(n, seed)
  local t = {}
  for i = 1, n do t[i] = (seed * 37 + i * 11) % models.f32.vocab end
  return t
end

local function norm(x) local s = 0; for i = 1, #x do s = s + x[i] ^ 2 end return math.sqrt(s) end
local function apart(x, y)
  local d = {}
  for i = 1, #x do d[i] = x[i] - y[i] end
  return norm(d) / norm(x)
end

-- the gradient of sum_t d_t logprob_t / n over a batch, twice summed
local KINDS = {
  tinylora = function(m) return tl.adapter.tinylora(m, { rank = 2, u = 13 }) end,
  loraxs = function(m) return tl.adapter.loraxs(m, { rank = 2 }) end,
  lora = function(m) return tl.adapter.lora(m, { rank = 2 }) end,
  full = function(m) return tl.adapter.full(m) end,
}
local function gradient(dtype, kind, n, loss_scale)
  local m = models[dtype]
  local a, b = KINDS[kind](m), pass.batch()
  for i = 1, 3 do
    b:prompt(ids(12, i))
    for k = 1, 2 do b:completion(ids(9, 10 * i + k)) end
  end
  local tokens = b:n_tokens()
  local logprob, d = ffi.new("float[?]", tokens), ffi.new("float[?]", tokens)
  for i = 0, tokens - 1 do d[i] = (i % 3 - 1) / n end
  a:zero_gradient()
  local p = pass.create(m, b, { adapter = a, backward = true, loss_scale = loss_scale })
  for _ = 1, 2 do
    for i = 0, p.n_micro - 1 do
      p:forward(i, logprob, nil)
      p:backward(i, d, nil)
    end
  end
  p:free()
  return a:gradient(), a
end

for kind in pairs(KINDS) do
  check.test("gradients in fp16: " .. kind, function()
    for _, n in ipairs { 40, 1e3, 1e6 } do
      local want = gradient("f32", kind, n, 1)
      local f16, bf16 = apart(want, gradient("f16", kind, n, 2 ^ 14)), apart(want, gradient("bf16", kind, n, 1))
      if not (f16 < 0.01 and f16 < bf16 / 3) then error(("at 1 / %g: %.3g of its size from fp32's, bf16's is %.3g"):format(n, f16, bf16)) end
    end
    check.equal(apart(gradient("f32", kind, 7, 1), gradient("f32", kind, 7, 2 ^ 14)), 0, "a loss scale in fp32")
    if apart(gradient("f32", kind, 1e8, 1), gradient("f16", kind, 1e8, 1)) < 0.1 then error "so small a loss needs no loss scale: the test tests nothing" end
  end)
end

check.test("logprobs in fp16 are nearer to fp32's than bf16's are", function()
  local lp = {}
  for dtype, m in pairs(models) do lp[dtype] = m:logprobs(ids(40, 3)) end
  local f16, bf16 = apart(lp.f32, lp.f16), apart(lp.f32, lp.bf16)
  if not (f16 < bf16 / 3) then error(("%.3g of their size, bf16's %.3g"):format(f16, bf16)) end
end)

check.test("a gradient beyond fp16 is made again with a smaller loss scale", function()
  local scales, want = {}, gradient("f32", "tinylora", 1e-3, 1)
  local found
  pass.scaled(models.f16, { { trainer = setmetatable({}, { __index = function() return found.adapter end }) } }, function(scale)
    scales[#scales + 1] = scale
    local g, a = gradient("f16", "tinylora", 1e-3, scale)
    found = { g = g, adapter = a }
    return { free = function() end }
  end)
  check.equal(scales[1], 2 ^ 14)
  if #scales < 2 then error "16384 times a gradient of thousands is beyond fp16" end
  if apart(want, found.g) > 0.01 then error(("%g of its size from fp32's"):format(apart(want, found.g))) end
end)

check.test("an adapter is the same file whatever its model computes in", function()
  local dir = os.getenv "TMPDIR" or "/tmp"
  for _, from in ipairs { "bf16", "f16" } do
    local path = ("%s/tl-f16-%d-%s.tla"):format(dir, os.time(), from)
    local a = tl.adapter.tinylora(models[from], { rank = 2, u = 13, tie = tl.tie.full })
    local list = a:parameters()
    for i = 1, #list do list[i] = 0.01 * i end
    a:set(list)
    a:save(path)
    for dtype, m in pairs(models) do
      local ok, b = pcall(tl.adapter.load, m, path)
      if not ok then os.remove(path); error(("made in %s, loaded in %s: %s"):format(from, dtype, b), 0) end
      check.equal(b:parameters(), a:parameters())
    end
    os.remove(path)
  end
end)

check.test("three steps of SFT in fp16 follow fp32's", function()
  local problems, v = tl.data.load("wordproblems", { n = 4, seed = 5, split = "train", min_ops = 2, max_ops = 2 }), {}
  for _, dtype in ipairs { "f32", "f16" } do
    local a = tl.adapter.tinylora(models[dtype], { rank = 2, u = 13, tie = tl.tie.full })
    local s = tl.sft.trainer { model = models[dtype], adapter = a, lr = 1e-2 }
    for _ = 1, 3 do s:step { problems[1], problems[2], problems[3], problems[4] } end
    v[dtype] = a:parameters()
  end
  if apart(v.f32, v.f16) > 0.05 then error(("%g of their size"):format(apart(v.f32, v.f16))) end
end)

-- a draw may be another in another dtype, so only the size of the gradient is compared: a loss scale that stayed in it would be 16384 times
check.test("GRPO in fp16 trains, with a gradient that the loss scale has left", function()
  local problems, norms = tl.data.load("wordproblems", { n = 2, seed = 5, split = "train", min_ops = 2, max_ops = 2 }), {}
  local function digits(_, c) return select(2, c.text:gsub("%d", "")) / math.max(1, #c.text) end
  for _, dtype in ipairs { "f32", "f16" } do
    local a = tl.adapter.tinylora(models[dtype], { rank = 2, u = 13, tie = tl.tie.full })
    local t = tl.grpo.trainer { model = models[dtype], adapter = a, reward = digits, num_generations = 8, max_completion_length = 12, lr = 1e-2, seed = 1, gate = false }
    norms[dtype] = t:step({ problems[1], problems[2] }).grad_norm
    t:free()
    if norm(a:parameters()) < 1e-3 then error "nothing was trained" end
  end
  check.near(norms.f16 / norms.f32, 1, 0.5, "its size beside fp32's: ")
end)

check.test("a model whose numbers are beyond fp16 is refused by the trainers, by what is wrong with it", function()
  local a = tl.adapter.full(models.f16)
  local list = a:parameters()
  for i = 1, #list do list[i] = list[i] * 1000 end
  a:set(list)
  local before = a:parameters()[1]
  local s = tl.sft.trainer { model = models.f16, adapter = a, lr = 1e-2 }
  check.raises("beyond fp16", s.step, s, { tl.data.load("wordproblems", { n = 1, seed = 5, split = "train" })[1] })
  check.equal(a:parameters()[1], before, "what was trained")
end)

check.done()
