-- Bits received, held and saved: each formula against a value worked out by hand, or against the model's own logprobs.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local I = tl.information
local model = tl.model.load "tiny"
local problems = tl.data.load("wordproblems", { n = 6, seed = 3, split = "train" })
local function adapter() return tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" }) end

check.test("bits of rewards: at most one a sample, none in a group that agrees", function()
  check.equal(I.entropy { 1, 0, 1, 0 }, 1)
  check.near((I.entropy { 1, 0, 0, 0 }), 0.8112781, 1e-6)        -- H(1/4) = 2 - 3/4 log2 3
  check.near((I.entropy { 0, 1, 2 }), math.log(3) / math.log(2), 1e-12)
  local r = I.rewards { { 1, 0, 1, 0 }, { 1, 1, 1, 1 }, { 0, 0, 0, 0 }, { 1, 0, 0, 0 / 0 } }
  check.equal({ r.samples, r.silent }, { 15, 0.5 })
  check.near(r.bits, 4 + 3 * 0.9182958, 1e-6)                    -- a NaN is left out: H(1/3) over 3 samples
  check.near(r.per_sample, r.bits / 15, 1e-12)
end)

check.test("code length is the sum of the model's own logprobs, in bits", function()
  local tok, bits = model:tokenizer(), 0
  for _, p in ipairs(problems) do
    local ids = tok:encode(tok:chat(p.messages, { add_generation_prompt = true }), { parse_special = true })
    local n = #ids
    for _, id in ipairs(tok:encode(p.solution)) do ids[#ids + 1] = id end
    ids[#ids + 1] = model.eos[1]
    local lp = model:logprobs(ids)
    for i = n, #ids - 1 do bits = bits - lp[i] / math.log(2) end
  end
  local c = I.code_length(model, problems)
  check.near(c.bits, bits, 1e-3 * bits)
  check.near(c.per_token, c.bits / c.tokens, 1e-9)
end)

-- log2 2.865064 = 1.5185...; n = 16: + 4 + 2 + 1
check.test("the universal code of whole numbers", function()
  check.near(I.universal(1), 1.518567, 1e-5)
  check.near(I.universal(16), 8.518567, 1e-5)
  local kraft = 0
  for n = 1, 100000 do kraft = kraft + 2 ^ -I.universal(n) end
  check.equal(kraft < 1 and kraft > 0.7, true, "the lengths are of a prefix code (Kraft): " .. kraft)
  local bits, rounded = I.description({ 0.3, -0.3, 0.01 }, 0.25)
  check.equal(rounded, { 0.25, -0.25, 0 })
  check.near(bits, I.universal(2) + I.universal(3) + I.universal(1), 1e-12)
end)

check.test("two-part code: the parts add up, the search is no longer than any step it tried", function()
  local a = adapter()
  local trainer = tl.sft.trainer { model = model, adapter = a, lr = 3e-2 }
  for _ = 1, 8 do trainer:step(problems) end
  local kept = a:parameters()
  local plain, found = I.two_part(model, a, problems), I.two_part(model, a, problems, { search = true })
  check.equal(plain.adapter, 208)                                -- 13 numbers of 16 bits
  check.near(plain.after, plain.adapter + plain.data, 1e-9)
  check.near(plain.saved, plain.before - plain.after, 1e-9)
  check.equal(plain.data < plain.before, true, "training shortens the data")
  check.equal(found.after < plain.after and found.adapter < 208, true, "a shorter description was found")
  check.equal(a:parameters(), kept, "the adapter is left as it was")
end)

-- two gradients by hand, then the mean of many estimates against the true signal: the estimate must not be biased
check.test("signal and noise of gradients", function()
  local r = I.separation({ { 1, 2 }, { 1, -2 } }, { 1, 0 })
  check.near(r.signal, 1 - 4, 1e-12)                             -- g1 . g2
  check.near(r.noise, 5 + 3, 1e-12)                              -- mean |g|^2 - signal
  check.near(r.alignment[1], 1 / math.sqrt(5), 1e-12)
  check.near(r.alignment[2], 1, 1e-12)
  check.equal(I.separation({ { 1, 2 }, { 1, 2 } }).ratio, math.huge)
  local sum, philox = 0, require "tl.philox"
  for t = 1, 400 do                                              -- E g = (1, 0), variance 1/12 * 16 in the other direction
    local list = {}
    for k = 1, 4 do list[k] = { 1, 4 * (philox.uniform(5, t, k) - 0.5) } end
    sum = sum + I.separation(list).signal
  end
  check.near(sum / 400, 1, 4 * math.sqrt((16 / 12) ^ 2 / 6 / 400), "the mean over draws, within 4 standard errors")
end)

check.test("epochs of SFT have one gradient, those of GRPO have many; nothing moves", function()
  local a = adapter()
  a:set(0.01)
  local before = a:parameters()
  local sft = I.gradients { model = model, adapter = a, problems = problems, epochs = 2, method = "sft" }
  check.equal(sft[1], sft[2])
  check.equal(I.separation(sft).ratio, math.huge)
  local rl = I.gradients { model = model, adapter = a, problems = problems, epochs = 3, verifier = "verifiers.math", num_generations = 8, max_completion_length = 40 }
  local norm = 0
  for _, v in ipairs(rl[1]) do norm = norm + v * v end
  check.equal(norm > 0, true, "the first epoch has a gradient")
  check.equal(table.concat(rl[1], " ") == table.concat(rl[2], " "), false, "two epochs of GRPO have the same gradient")
  check.equal(a:parameters(), before)
end)

check.done()
