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
check.done()
