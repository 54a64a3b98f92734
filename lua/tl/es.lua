--- es.lua: evolution strategies on an adapter's numbers (Salimans et al. 2017, arXiv:1703.03864): no backward pass and no logprobs, only
--- rewards. A step draws pairs v + sigma e and v - sigma e, e normal; all of them answer the same problems together, as one population; then
---   dv = 1 / (2 n sigma) sum over n pairs of (f(v + sigma e) - f(v - sigma e)) e
--- with f the mean reward or, which does not depend on its scale, its rank among all members, from -1/2 to 1/2. AdamW goes along dv.
---
---   local trainer = tl.es.trainer { model = model, adapter = a, verifier = "verifiers.math", members = 16, sigma = 0.05, lr = 3e-2 }
---   for batch in problems:batches { size = 8, epochs = 1 } do trainer:step(batch) end
local F = require "tl.ffi"
local grpo = require "tl.grpo"
local philox = require "tl.philox"
local population = require "tl.population"
local optim = require "tl.optim"
local options = require "tl.options"
local data = require "tl.data"
local step = require "tl.step"
local verify = require "tl.verify"
local C = F.C

local es = {}
local Trainer = {}
Trainer.__index = Trainer

local SHAPES = { rank = true, reward = true }

local OPTIONS = options.names {
  any = "model adapter verifier reward prompt lr fitness stop gate run", map = "verifier_config",
  amount = "max_grad_norm", number = "sigma temperature beta1 beta2 eps weight_decay", seed = "seed",
  count = "workers timeout_ms members num_generations max_completion_length max_sequences total_steps",
}

--- An evolution strategy.
--- model, adapter        TinyLoRA or LoRA-XS
--- verifier | reward, verifier_config, workers, timeout_ms, prompt    as in tl.grpo
--- members (16: an even number, pairs of opposites), sigma (0.05: how far they are from v), lr (3e-2, or function(step, total))
--- fitness ("rank"; reward), num_generations (1), temperature (1: sampled answers make f smooth in v), max_completion_length (256), stop, max_sequences
--- max_grad_norm (0: dv is not clipped), beta1, beta2, eps, weight_decay (0), total_steps, seed (0), gate (true), run
---@param o table
function es.trainer(o)
  options.only("es.trainer", o, OPTIONS)
  local t = setmetatable({ o = o, model = F.object("es.trainer", o.model, "model"), adapter = F.object("es.trainer", o.adapter, "adapter") }, Trainer)
  local verifier = verify.given("es.trainer", o.verifier, o.reward)
  require("tl.checkpoint").only("es.trainer", o)
  t.n, t.sigma, t.fitness = o.members or 16, o.sigma or 0.05, o.fitness or "rank"
  if t.n % 2 ~= 0 or t.n < 2 then error(("es: members is %s; they are pairs of opposites: an even number from 2"):format(tostring(t.n)), 2) end
  if type(t.sigma) ~= "number" or t.sigma <= 0 then error(("es: sigma is %s; wanted a number above 0"):format(tostring(t.sigma)), 2) end
  if (o.seed or 0) >= 2 ^ 37 then error(("es: seed is %.16g; it is at most 2^37 - 1, since every step draws with another one"):format(o.seed), 2) end
  if not SHAPES[t.fitness] then error(('es: fitness is "rank" or "reward"; got %s'):format(tostring(t.fitness)), 2) end
  t.lr, t.steps, t.seed = optim.schedule(o.lr or 3e-2), 0, o.seed or 0
  t.optimizer = optim.adamw(o.adapter, { beta1 = o.beta1, beta2 = o.beta2, eps = o.eps, weight_decay = o.weight_decay, max_grad_norm = o.max_grad_norm or 0 })
  t.clones, t.wants_answer = {}, verify.wants_answer(o.verifier)
  for k = 1, t.n do t.clones[k] = t.adapter:clone() end
  t.set = population.of(t.clones)
  t.pool = verify.pool { verifier = verifier, workers = o.workers,
    timeout_ms = o.timeout_ms, config = o.verifier_config }
  return t
end

-- e of pair k in a step: normal numbers, a function of (seed, step, pair)
local function noise(self, k)
  local e, stream = {}, self.steps * 65536 + k
  for i = 1, self.adapter.n_parameters do e[i] = philox.normal(self.seed, stream, i) end
  return e
end

-- ranks from -1/2 to 1/2, equal rewards the mean of theirs; all equal: zeros
local function ranks(rewards)
  local order, f, n = {}, {}, #rewards
  for k = 1, n do order[k] = k end
  table.sort(order, function(a, b)
    if rewards[a] ~= rewards[b] then return rewards[a] < rewards[b] end
    return a < b
  end)
  local i = 1
  while i <= n do
    local j = i
    while j < n and rewards[order[j + 1]] == rewards[order[i]] do j = j + 1 end
    for m = i, j do f[order[m]] = ((i + j) / 2 - 1) / (n - 1) - 0.5 end
    i = j + 1
  end
  return f
end

local function one_step(self, problems)
  local began, o = C.tl_seconds(), self.o
  if self.steps == 0 and o.gate ~= false then grpo.gate(self.pool, problems, verify.name(o.verifier)) end
  self.steps = self.steps + 1
  local lr = optim.rate(self.lr, self.steps, o.total_steps)
  local v, e, u = self.adapter:parameters(), {}, self.adapter.n_parameters
  for k = 1, self.n / 2 do
    e[k] = noise(self, k)
    local plus, minus = {}, {}
    for i = 1, u do plus[i], minus[i] = v[i] + self.sigma * e[k][i], v[i] - self.sigma * e[k][i] end
    self.clones[2 * k - 1]:set(plus)
    self.clones[2 * k]:set(minus)
  end
  local results = population.rewards(self.set, problems, { pool = self.pool, prompt = o.prompt, n = o.num_generations, temperature = o.temperature or 1, stop = o.stop,
    max_new_tokens = o.max_completion_length or 256, seed = self.seed * 65536 + self.steps, max_sequences = o.max_sequences })
  local rewards, m = {}, { step = self.steps, reward = 0, reward_best = -math.huge, n_samples = self.n * #problems * (o.num_generations or 1) }
  m["completions/mean_length"] = 0
  for k, r in ipairs(results) do
    rewards[k] = r.reward
    m.reward, m.reward_best = m.reward + r.reward / self.n, math.max(m.reward_best, r.reward)
    m["completions/mean_length"] = m["completions/mean_length"] + r.mean_length / self.n
  end
  local var = 0
  for _, r in ipairs(rewards) do var = var + (r - m.reward) ^ 2 / (self.n - 1) end
  m.reward_std, m.learning_rate = math.sqrt(var), lr
  local f = self.fitness == "rank" and ranks(rewards) or rewards
  local g = C.tl_adapter_gradient(self.adapter.handle)
  for i = 1, u do
    local sum = 0
    for k = 1, self.n / 2 do sum = sum + (f[2 * k - 1] - f[2 * k]) * e[k][i] end
    g[i - 1] = -sum / (self.n * self.sigma)  -- AdamW goes down; 2 n pairs are the members
  end
  step.updating()
  m.grad_norm = var > 0 and self.optimizer:step(m.learning_rate) or 0  -- no member is better than another: nothing is learnt
  m.step_time = C.tl_seconds() - began
  if o.run then o.run:step(m) end
  return m
end

--- One step on a list of problems; returns { step, reward (mean of the members), reward_best, reward_std, grad_norm, learning_rate,
--- completions/mean_length, n_samples, step_time }. One that is interrupted or fails leaves the trainer as it was.
---@param problems table[]
function Trainer:step(problems)
  data.check("a step", problems, self.wants_answer)
  return step.run(self, nil, one_step, problems)
end

--- Ends the verifiers, and releases what it has made for itself; model and adapter stay.
function Trainer:free()
  self.set:free()
  for _, c in ipairs(self.clones) do c:free() end
  self.pool:free()
end

return es
