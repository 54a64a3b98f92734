-- What a step's loss is, from its rollouts, against TRL's formulas (arXiv:2402.03300, 2503.14476, 2503.20783), where groups without any advantage are
-- not computed; and the gradient of its KL term. Catches: a normaliser that forgets their tokens or sequences.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"

local model = tl.model.load("tiny", { dtype = "f32" })
local problems = tl.data.load("wordproblems", { n = 4, seed = 5, split = "train" })
local dead = { [problems[2].id] = true, [problems[4].id] = true }

for _, loss_type in ipairs { "grpo", "dapo", "bnpo", "dr_grpo" } do
  check.test(loss_type .. ": the loss of a step with groups that earn the same", function()
    local adapter = tl.adapter.tinylora(model, { u = 4 })
    local t = tl.grpo.trainer { model = model, adapter = adapter, num_generations = 4, max_completion_length = 64, lr = 1e-2, gate = false, loss_type = loss_type,
      temperature = 1.3, seed = 3, reward = function(_, c) return #c.text end }
    local list = {}
    for i, p in ipairs(problems) do list[i] = p end
    -- the reward is judged in a state of its own: groups are made equal by hand
    local judge = t.judge
    t.judge = function(self, r)
      judge(self, r)
      for _, g in ipairs(r.groups) do
        for _, c in ipairs(g.completions) do if dead[g.problem.id] then c.advantage = 0 end end
      end
    end
    local metrics, r = t:step(list)
    local tokens, sequences, of_tokens, of_sequences = 0, 0, 0, 0
    for _, g in ipairs(r.groups) do
      for _, c in ipairs(g.completions) do
        tokens, sequences = tokens + #c.ids, sequences + 1
        of_tokens, of_sequences = of_tokens - c.advantage * #c.ids, of_sequences - c.advantage
      end
    end
    local want = { grpo = of_sequences / sequences, dapo = of_tokens / tokens, bnpo = of_tokens / tokens, dr_grpo = of_tokens / (64 * sequences) }
    check.near(metrics.loss, want[loss_type], 1e-5, "ratio 1 everywhere")
    t:free()
  end)
end
-- Catches: a loss that adds up over the iterations, clipped tokens as a share of the trained ones only, a spread of rewards within groups.
check.test("the metrics of a step are TRL's, whatever the iterations and however many groups earn the same", function()
  local function step(o)
    local adapter = tl.adapter.tinylora(model, { u = 4 })
    o.model, o.adapter, o.num_generations, o.max_completion_length, o.gate, o.seed, o.lr, o.epsilon = model, adapter, 4, 32, false, 3, o.lr or 3e-2, 1e-3
    o.reward = function(p, c) return p.reward or #c.text % 3 end
    local t = tl.grpo.trainer(o)
    local m, r = t:step { problems[1], setmetatable({ reward = 2 }, { __index = problems[2] }), problems[3] }
    t:free()
    return m, r
  end
  local once = step({ lr = 0 }).loss
  assert(math.abs(once) > 1e-3, "a loss that is not 0")
  check.near(step({ num_iterations = 3, lr = 0 }).loss, once, 1e-6, "nothing moves: three times the same loss")
  local m, r = step { num_iterations = 2 }
  local all = step { num_iterations = 2, beta = 1e-30 }  -- for the KL term groups that earn the same are computed too
  assert(m.samples_trained == 8 and all.samples_trained == 12, "one group of three earns the same")
  assert(m["clip_ratio/region_mean"] > 0.01, "tokens are clipped")
  for _, name in ipairs { "low", "high", "region" } do check.near(m["clip_ratio/" .. name .. "_mean"], all["clip_ratio/" .. name .. "_mean"], 1e-12, name) end
  local sum, squares, n, tokens = 0, 0, 0, 0
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do sum, squares, n, tokens = sum + c.reward, squares + c.reward ^ 2, n + 1, tokens + #c.ids + #g.prompt end
  end
  check.near(m.reward_std, math.sqrt((squares - sum ^ 2 / n) / (n - 1)), 1e-9, "of all rewards")
  check.equal(m.num_tokens, tokens, "every completion has its prompt")
  check.raises("num_iterations wants", tl.grpo.trainer, { model = model, adapter = tl.adapter.tinylora(model), reward = function() end, num_iterations = 0 })
end)
-- Catches: a default that is not TRL's. Rewards are equal, so that the gradient is the KL term's alone.
check.test("the gradient of the KL term is TRL's, with and without the correction of its bias", function()
  local function norm(o)
    local adapter = tl.adapter.tinylora(model, { u = 4, init = 0.05 })
    o.model, o.adapter, o.num_generations, o.max_completion_length, o.gate, o.seed, o.beta = model, adapter, 2, 32, false, 3, 0.5
    o.reward = function() return 1 end
    local t = tl.grpo.trainer(o)
    local m = t:step { problems[1], problems[2] }
    t:free()
    return m.grad_norm
  end
  local function by_hand(slope)
    return norm { objective = function(t, out)
      for i = 0, t.n - 1 do out.dlogprob[i] = 0.5 * slope(t.logprob[i] - t.ref[i]) / t.total_tokens end
    end }
  end
  local corrected, plain = norm {}, norm { use_bias_correction_kl = false }
  assert(math.abs(corrected / plain - 1) > 0.01, "the two differ where the reference does")
  check.near(corrected / by_hand(function(d) return d end), 1, 1e-4, "logprob - ref")
  check.near(plain / by_hand(function(d) return 1 - math.exp(-d) end), 1, 1e-4, "1 - exp(ref - logprob)")
end)
-- one step with a loss; returns what it did, the metrics, the rollout. AdamW's first step is little more than the gradient's signs: so its norm too
local function trained(o)
  local adapter = tl.adapter.tinylora(model, { u = 4 })
  local all = { model = model, adapter = adapter, num_generations = 6, max_completion_length = 24, gate = false, seed = 3, lr = 1e-2, temperature = 1.3,
    reward = function(_, c) return #c.text % 3 end }
  for k, v in pairs(o) do all[k] = v end
  local t = tl.grpo.trainer(all)
  local m, r = t:step(problems)
  t:free()
  return { numbers = adapter:parameters(), norm = m.grad_norm }, m, r
end
local function alike(a, b)
  for i = 1, #a.numbers do check.near(a.numbers[i], b.numbers[i], 1e-6) end
  assert(b.norm > 1e-3)
  check.near(a.norm / b.norm, 1, 1e-4, "the gradient's norm")
end

-- the completions in the order of the batch, in which every group must be
local function all_of(r)
  local list = {}
  for _, g in ipairs(r.groups) do
    local alive = false
    for _, c in ipairs(g.completions) do
      alive = alive or c.advantage ~= 0
      list[#list + 1] = c
    end
    assert(alive, "every group has something to train on")
  end
  return list
end

-- Catches: a derivative that is not that of the loss's name; at ratio 1 their gradients are known.
check.test("cispo's first step is dapo's, sapo's is grpo's; luspo counts a sequence by its length", function()
  alike(trained { loss_type = "cispo", epsilon_high = 5 }, trained { loss_type = "dapo" })
  alike(trained { loss_type = "sapo" }, trained { loss_type = "grpo" })
  alike(trained { loss_type = "luspo", max_grad_norm = 0 }, trained { max_grad_norm = 0, objective = function(b, out)
    for s = b.first, b.first + b.count - 1 do
      for i = tonumber(b.offsets[s]), tonumber(b.offsets[s + 1]) - 1 do out.dlogprob[i] = -b.advantage[s] / b.total_sequences end
    end
  end })
  local _, m = trained { loss_type = "cispo", epsilon_high = 0.999, num_iterations = 2 }
  assert(m.cispo_clip_ratio > 0.1 and m["clip_ratio/region_mean"] == nil, "the share of capped ratios")
  check.raises("cispo. wants epsilon_high", trained, { loss_type = "cispo" })
  check.raises("sapo's temperatures are 0 and", trained, { loss_type = "sapo", sapo_temperature_pos = 0 })
end)

-- Catches: cut completions that still count among the tokens, or whose rewards do not; a group of them alone that is computed.
check.test("mask_truncated_completions: what the limit cut off is not trained on", function()
  local numbers, m, r = trained { mask_truncated_completions = true, max_completion_length = 6 }
  local cut, loss, tokens = 0, 0, 0
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do
      if c.finish == "length" then cut = cut + 1 else loss, tokens = loss - c.advantage * #c.ids, tokens + #c.ids end
    end
  end
  assert(cut > 2 and cut < 20, cut .. " of 24 are cut")
  check.near(m.loss, loss / tokens, 1e-5)
  local completions = all_of(r)
  alike(numbers, trained { max_completion_length = 6, objective = function(b, out)
    for s = b.first, b.first + b.count - 1 do
      local ended = completions[s + 1].finish == "stop"
      for i = tonumber(b.offsets[s]), tonumber(b.offsets[s + 1]) - 1 do out.dlogprob[i] = ended and -b.advantage[s] / tokens or 0 end
    end
  end })
end)

-- Catches: a quantile of other tokens than the step's, a threshold on the wrong side.
check.test("top_entropy_quantile: the clipped term is of the tokens with the highest entropies", function()
  local numbers, _, r = trained { top_entropy_quantile = 0.3 }
  local list = {}
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do
      for k = 1, #c.ids do list[#list + 1] = c.entropy[k] end
    end
  end
  table.sort(list)
  local least, completions = list[math.ceil(0.7 * (#list - 1)) + 1], all_of(r)
  alike(numbers, trained { objective = function(b, out)
    for s = b.first, b.first + b.count - 1 do
      local from = tonumber(b.offsets[s])
      for i = from, tonumber(b.offsets[s + 1]) - 1 do
        local high = completions[s + 1].entropy[i - from + 1] >= least
        out.dlogprob[i] = high and -b.advantage[s] / b.total_tokens or 0
      end
    end
  end })
  check.raises("top_entropy_quantile wants a number above 0, to 1; got 0", trained, { top_entropy_quantile = 0 })
  check.raises("do not go together", trained, { top_entropy_quantile = 0.5, entropy_coef = 0.1 })
end)


-- Catches: what an iteration filled in standing in for what the next one left out; figures of the built-in objective told of another one; an entropy bonus that
-- an objective of one's own could not have.
check.test("an objective of one's own: what it leaves out is 0, and only its own figures are told", function()
  local calls, entropies = 0, 0
  local function step(o)
    o.model, o.adapter, o.num_generations, o.max_completion_length, o.gate, o.seed, o.lr = model, tl.adapter.tinylora(model, { u = 4 }), 4, 16, false, 3, 1e-2
    o.reward = function(_, c) return #c.text % 3 end
    local t = tl.grpo.trainer(o)
    local m = t:step { problems[1] }
    t:free()
    return m
  end
  local function fill(t, d, x) for i = tonumber(t.offsets[t.first]), tonumber(t.offsets[t.first + t.count]) - 1 do d[i] = x end end
  local m = step { num_iterations = 2, beta = 0.1, rollouts = "int8", objective = function(t, out)
    calls = calls + 1
    if calls == 1 then fill(t, out.dlogprob, 1) end
    out.loss = 0.5
  end }
  check.equal({ calls, m.grad_norm, m.loss }, { 2, 0, 0.5 })
  for _, name in ipairs { "kl", "sampling/importance_sampling_ratio/min", "sampling/sampling_logp_difference/mean" } do check.equal(m[name], nil, name) end
  m = step { entropy_coef = 1, objective = function(t, out)
    entropies = entropies + t.entropy[tonumber(t.offsets[t.first])]
    fill(t, out.dentropy, -1)
  end }
  assert(entropies > 0 and m.grad_norm > 0, "entropies, and their gradient")
  check.equal(step({ objective = function() end }).grad_norm, 0)
  check.raises("out.loss is a number; got 'x'", step, { objective = function(_, out) out.loss = "x" end })
end)

check.done()
