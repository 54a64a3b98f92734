-- test_bench.lua: what a profile counts, and that it adds up. Would catch: an op that the profiling table does not time, FLOPs
-- counted twice or not at all, a section that counts the ops inside of it again. No time is asserted beyond the sum.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal = check.equal
local tl = require "tl"
local bench = require "tl.bench"

local model = tl.model.load("tiny", { dtype = "f32" })
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full })

local function flops_of(profile, name)
  local sum, seconds = 0, 0
  for _, r in ipairs(profile.rows) do
    if r.name:find(name, 1, true) == 1 then sum, seconds = sum + r.flops, seconds + r.seconds end
  end
  return sum, seconds
end

check.test("a training step's products are counted once", function()
  local r = bench.train(model, { adapter = adapter, sequences = 3, tokens = 9, reps = 1, profile = true })
  local weights, low = 0, 0
  for _, m in ipairs(model:modules()) do weights, low = weights + m.out * m["in"], low + 2 * (m.out + m["in"]) end
  local rows = 3 * 8                     -- the last token of a sequence is no row
  equal((flops_of(r.profile, "linear_fwd")), 2 * rows * (weights + low))
  equal((flops_of(r.profile, "head_fwd")), 2 * rows * model.vocab * model.width)
  equal((flops_of(r.profile, "head_bwd")), 2 * rows * model.vocab * model.width)
  equal(r.profile.covered <= 1, true, "rows overlap: " .. r.profile.covered)
end)

check.test("a GRPO step's profile adds up to its wall time", function()
  local problems = {}
  for i = 1, 2 do problems[i] = { prompt = "What is " .. i .. " + 2?", answer = "3" } end
  local r = bench.grpo(model, { adapter = adapter, prompts = 2, group = 2, new_tokens = 6, reps = 1, problems = problems, profile = true })
  local sum = 0
  for _, row in ipairs(r.profile.rows) do sum = sum + row.seconds end
  equal(math.abs(sum - r.profile.wall_s) < 1e-6 * (1 + sum), true)
  equal(r.profile.covered <= 1, true, "rows overlap: " .. r.profile.covered)
  local flops = flops_of(r.profile, "head_sample")
  equal(flops > 0 and flops % (2 * model.vocab * model.width) == 0, true)
end)

check.test("int8 samples near the model, and says how near", function()
  local problems = { { prompt = "What is 1 + 2?", answer = "3" }, { prompt = "What is 5 + 2?", answer = "7" } }
  local r = bench.grpo(model, { adapter = adapter, prompts = 2, group = 16, new_tokens = 8, reps = 2, problems = problems, rollouts = "int8" })
  equal(r.logp_difference > 0 and r.logp_difference < 0.2, true, tostring(r.logp_difference))
  equal(r.importance_weight > 0.5 and r.importance_weight < 2, true, tostring(r.importance_weight))
end)

-- Would catch: a verifier's wait that is not measured, or a trainer that is given the other's adapter (both are tl.adapter's own).
check.test("overlap waits for its verifier, and both trainers train", function()
  local problems = { { prompt = "What is 1 + 2?", answer = "3" }, { prompt = "What is 5 + 2?", answer = "7" } }
  local pair = { tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full }), tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full }) }
  local r = bench.overlap(model, { adapters = pair, prompts = 2, group = 4, new_tokens = 4, reps = 1, problems = problems, workers = 2, verify_ms = 20 })
  equal(r.waited_s > 0.02, true, "8 verdicts of 20 ms by 2 workers after " .. r.waited_s)
  equal(r.verify_ms, 20)
end)

check.test("sizes measures the rows that are asked for", function()
  local seen = 0
  local r = require "tl.bench.sizes" { reps = 1, only = "^vocab 2048$", each = function() seen = seen + 1 end }
  equal(#r.rows, 1)
  equal(seen, 1)
  equal(r.rows[1].parameters, 6 * (576 * 576 * 2 + 2 * 192 * 576 + 3 * 1536 * 576) + 2048 * 576)
end)

check.done()
