--- fisher.lua: the gradient of each sample's log-probability in v, and what their spread says of v: the Fisher information
---   F = E[g g^T], g = d log p(completion | prompt) / dv, completions drawn from the model itself
--- A large eigenvalue is a direction of v along which the model's answers change fast; the gradients' mean under a reward, beside their
--- spread, is the signal and the noise of a policy gradient. A sample's gradient needs no pass of its own: each belongs to another member of a
--- population of equal adapters (tl.population), so that one backward pass gives the gradients of many.
local F = require "tl.ffi"
local ffi = require "ffi"
local grpo = require "tl.grpo"
local pass = require "tl.pass"
local population = require "tl.population"
local sample = require "tl.sample"
local tensor = require "tl.tensor"

local fisher = {}
local AT_ONCE = 32  -- samples of a pass

local function gradients_of(adapter, samples, first, count, o)
  local clones, batch, list = {}, pass.batch(), {}
  for k = 1, count do
    clones[k] = adapter:clone()
    batch:member(k - 1)
    batch:prompt(samples[first + k - 1].prompt_ids)
    batch:completion(samples[first + k - 1].completion_ids)
  end
  local set, n = population.of(clones), batch:n_tokens()
  local logprob, d, offsets = ffi.new("float[?]", n), ffi.new("float[?]", n), batch:offsets()
  for i = 0, n - 1 do d[i] = 1 end
  local p = pass.create(adapter.model, batch, { population = set, backward = true, temperature = o.temperature, memory = o.memory })
  for i = 0, p.n_micro - 1 do
    p:forward(i, logprob, nil)
    p:backward(i, d, nil)
  end
  for k, c in ipairs(clones) do
    local sum = 0
    for i = tonumber(offsets[k - 1]), tonumber(offsets[k]) - 1 do sum = sum + logprob[i] end
    list[k] = { gradient = c:gradient(), logprob = sum }
    c:free()
  end
  p:free()
  set:free()
  batch:free()
  return list
end

--- d log p(completion | prompt) / dv of each sample, at the adapter's v. samples: a list of { prompt_ids =, completion_ids = }. o:
--- temperature (1), memory (bytes for activations). Returns a list of { gradient = { n_parameters numbers }, logprob = }.
---@param adapter table a TinyLoRA or LoRA-XS adapter
---@param samples table[]
---@param o table?
function fisher.gradients(adapter, samples, o)
  F.object("fisher.gradients", adapter, "adapter")
  if type(samples) ~= "table" then error("fisher.gradients wants a list of { prompt_ids =, completion_ids = }; got " .. F.shown(samples), 2) end
  local list = {}
  for first = 1, #samples, AT_ONCE do
    for _, g in ipairs(gradients_of(adapter, samples, first, math.min(AT_ONCE, #samples - first + 1), o or {})) do list[#list + 1] = g end
  end
  return list
end

local Fisher = {}
Fisher.__index = Fisher

--- From gradients: mean, F (a tensor), eigenvalues (falling) and eigenvectors (columns of a tensor), and the signal-to-noise ratio
--- |mean|^2 / (trace of the gradients' covariance / n): what a mean over these samples says about the gradient's direction.
---@param list table[] of { gradient = } as fisher.gradients returns them
function fisher.of(list)
  if not list[1] then error("fisher.of wants at least one gradient", 2) end
  local n, u = #list, #list[1].gradient
  local information, mean, m2 = tensor.zeros(u, u), {}, 0
  local f = information:data()
  for i = 1, u do mean[i] = 0 end
  for _, item in ipairs(list) do
    local g = item.gradient
    for i = 1, u do
      mean[i] = mean[i] + g[i] / n
      for j = 1, u do f[(i - 1) * u + j - 1] = f[(i - 1) * u + j - 1] + g[i] * g[j] / n end
    end
  end
  local trace, vectors, values = 0, information:svd(u)
  for i = 1, u do trace, m2 = trace + f[(i - 1) * u + i - 1], m2 + mean[i] ^ 2 end
  local noise = n > 1 and (trace - m2) / (n - 1) or 0 / 0
  return setmetatable({ F = information, trace = trace, eigenvalues = values:totable(), eigenvectors = vectors, mean = mean, m2 = m2, n = n, snr = m2 / noise,
    gradients = list }, Fisher)
end

function Fisher:__tostring()
  local lines = { ("Fisher information of %d numbers from %d samples: trace %.4g, |mean gradient|^2 %.3g, signal/noise %.3g"):format(#self.mean, self.n,
    self.trace, self.m2, self.snr) }
  for i = 1, math.min(#self.eigenvalues, 16) do
    local share = self.eigenvalues[i] / math.max(1e-300, self.trace)
    lines[#lines + 1] = ("%3d  %10.4g  %5.1f%%  %s"):format(i, self.eigenvalues[i], 100 * share, ("#"):rep(math.floor(50 * share + 0.5)))
  end
  return table.concat(lines, "\n")
end

local OPTIONS = require("tl.options").names { any = "adapter problems prompt", number = "temperature", count = "n max_new_tokens", seed = "seed", bytes = "memory" }

--- The Fisher information of an adapter's numbers, at their present values, over completions that the model draws of problems' prompts. o: adapter,
--- problems, n (4: completions a problem), temperature (1), max_new_tokens (64), seed (0), prompt (as in tl.grpo), memory.
--- Returns { F, trace, eigenvalues, eigenvectors, mean, snr, n, gradients }; printed, it shows the eigenvalues.
---   tl.fisher { adapter = a, problems = tl.data.load("wordproblems", { n = 16 }) }
---@param o table
function fisher.run(o)
  require("tl.options").only("fisher", o, OPTIONS)
  local a = F.object("fisher", o.adapter, "adapter")
  require("tl.data").check("fisher", o.problems)
  local tok, prompts = a.model:tokenizer(), {}
  for i, problem in ipairs(o.problems) do prompts[i] = grpo.prompt_ids(tok, o.prompt, problem, i) end
  local drawn = sample.generate(a.model, prompts, { adapter = a, n = o.n or 4, temperature = o.temperature or 1, max_new_tokens = o.max_new_tokens or 64, seed = o.seed })
  local samples = {}
  for i, list in ipairs(drawn) do
    for _, c in ipairs(list) do samples[#samples + 1] = { prompt_ids = prompts[i], completion_ids = c.ids } end
  end
  return fisher.of(fisher.gradients(a, samples, o))
end

return setmetatable(fisher, { __call = function(_, o) return fisher.run(o) end })
